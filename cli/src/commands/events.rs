//! `wharf events`.

use common::{
    api::{Event, List},
    error::{Code, Problem},
};
use http_body_util::BodyExt;
use hyper::Method;

use super::Session;
use crate::{
    args::Format,
    output::{self, Rows},
};

/// Lists events, or follows them.
pub async fn events(session: &Session, subject: Option<String>, follow: bool) -> Result<u8, Problem> {
    let about = subject.map_or_else(String::new, |subject| about(session, &subject));
    let list: List<Event> = session.client.get(&format!("/api/v1/events?after=0{about}")).await?;
    let row = |event: &Event| {
        vec![event.at.to_string(), event.reason.clone(), event.subject.clone(), told(event), event.index.to_string()]
    };
    // Output lines stand below their event; the first column is empty for them.
    let rows = list.items.iter().flat_map(|event| std::iter::once(row(event)).chain(printed(event))).collect();
    output::list(
        session.format,
        &list,
        Rows { head: &["AT", "REASON", "SUBJECT", "MESSAGE", "INDEX"], narrow: 4, rows },
    );
    if follow {
        watch(session, list.index, &about).await?;
    }
    Ok(0)
}

/// The query parameters for events about a subject, named with or without its environment.
pub fn about(session: &Session, subject: &str) -> String {
    let subject = subject.replace(['&', '#', '?', ' '], "");
    format!("&subject={subject}&environment={}", session.environment)
}

/// The last output lines of a failed program, as rows below the event.
fn printed(event: &Event) -> Vec<Vec<String>> {
    let row = |line: &String| vec![String::new(), String::new(), String::new(), format!("│ {line}"), String::new()];
    event.output.lines().iter().map(row).collect()
}

/// The message of an event, and who requested the change.
fn told(event: &Event) -> String {
    let by = event.by.as_ref().map_or_else(String::new, |by| format!(" (by {by})"));
    format!("{}{by}", event.message)
}

async fn watch(session: &Session, after: u64, about: &str) -> Result<(), Problem> {
    let response =
        session.client.send(Method::GET, &format!("/api/v1/watch?after={after}{about}"), bytes::Bytes::new()).await?;
    let mut body = response.into_body();
    let mut rest = String::new();
    while let Some(frame) = body.frame().await {
        let broken = |why: String| Problem::new(Code::Unreachable, "The stream of events broke off").why(why);
        let frame = frame.map_err(|e| broken(e.to_string()))?;
        rest.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[], |data| data.as_ref())));
        while let Some(end) = rest.find('\n') {
            let line: String = rest.drain(..=end).collect();
            let Some(data) = line.trim_end().strip_prefix("data: ") else { continue };
            match serde_json::from_str::<Event>(data) {
                Ok(_) if session.format == Format::Json => output::line(data),
                Ok(event) => {
                    output::line(&format!("{}  {}  {}  {}", event.at, event.reason, event.subject, told(&event)));
                    event.output.lines().iter().for_each(|line| output::line(&format!("  │ {line}")));
                }
                Err(_) => match serde_json::from_str::<Problem>(data) {
                    Ok(problem) => return Err(problem),
                    Err(_) => output::note(data),
                },
            }
        }
    }
    Ok(())
}
