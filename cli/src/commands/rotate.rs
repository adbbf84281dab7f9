//! `wharf rotate`: the keys that the cluster itself depends on.

use bytes::Bytes;
use common::{
    api::{TrustKey, TrustView},
    error::Problem,
};
use hyper::Method;

use super::Session;
use crate::{
    args::Rotate,
    output::{self, Rows},
};

/// Runs a `wharf rotate` command.
pub async fn run(session: &Session, command: Rotate) -> Result<u8, Problem> {
    match command {
        Rotate::Status => status(session).await,
        Rotate::SealingKey => {
            let question = format!("Replace the key that seals the secrets of {}?", session.context);
            ask(session, "sealing-key", &question, "The change goes on by itself: wharf rotate status").await
        }
        Rotate::JoinKey => {
            output::note("Lines of wharf host add that nobody has pasted yet end with it");
            let question = format!("Replace the join key of {}?", session.context);
            ask(session, "join-key", &question, "To make a new line: wharf host add").await
        }
        Rotate::Ca { finish: false } => {
            output::note("Lines of wharf host add that nobody has pasted yet end with it");
            let question = format!("Replace the root of {}?", session.context);
            ask(session, "ca", &question, "The change goes on by itself: wharf rotate status").await
        }
        Rotate::Ca { finish: true } => {
            output::note("Hosts that are away and have no certificate of the new root have to join again");
            let question = format!("Go on without them in {}?", session.context);
            ask(session, "ca/finish", &question, "To see what is left: wharf rotate status").await
        }
    }
}

async fn ask(session: &Session, what: &str, question: &str, next: &str) -> Result<u8, Problem> {
    if !output::confirm(question, session.yes)? {
        return Ok(1);
    }
    session.client.send(Method::POST, &format!("/api/v1/trust/{what}"), Bytes::new()).await?;
    output::note(next);
    Ok(0)
}

async fn status(session: &Session) -> Result<u8, Problem> {
    let trust: TrustView = session.client.get("/api/v1/trust").await?;
    let row = |key: &TrustKey| {
        let id = key.id.clone().unwrap_or_else(|| "?".to_owned());
        vec![key.kind.clone(), id, key.phase.clone(), key.waits_for.join(", ")]
    };
    let rows = trust.keys.iter().map(row).collect();
    output::list(session.format, &trust, Rows { head: &["KEY", "ID", "PHASE", "WAITS FOR"], narrow: 4, rows });
    Ok(0)
}
