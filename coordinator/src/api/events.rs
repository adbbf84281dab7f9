//! Events: what was decided, listed or watched.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::sse::{Event as SseEvent, KeepAlive, Sse},
};
use common::{
    api::{Event, List},
    name::Name,
};
use futures::{FutureExt, Stream, StreamExt, stream};
use serde::Deserialize;
use tokio_stream::wrappers::WatchStream;
use utoipa::IntoParams;

use super::{
    access::Actor,
    extract::{Asked, Reading},
};
use crate::{Coordinator, raft::Published};

/// Most events in one answer.
const PAGE: usize = 1000;

/// Which events are asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Which {
    /// Only those after this index.
    #[serde(default)]
    after: u64,
    /// Only those about this subject, or about what belongs to it.
    subject: Option<String>,
    /// The environment that the subject may be of: `shop/web` is then `default/shop/web` as well.
    environment: Option<Name>,
}

impl Which {
    /// Whether an event is asked for by what it is about.
    fn is_about(&self, event: &Event) -> bool {
        let belongs = |rest: &str| rest.is_empty() || rest.starts_with('/') || rest.starts_with('.');
        let is = |told: &str, asked: &str| told.strip_prefix(asked).is_some_and(belongs);
        let Some(asked) = self.subject.as_deref() else { return true };
        let in_environment = || {
            let environment = self.environment.as_ref()?;
            event.subject.strip_prefix(environment.as_str())?.strip_prefix('/')
        };
        is(&event.subject, asked) || in_environment().is_some_and(|told| is(told, asked))
    }
}

/// Whether a token may see an event: one that does not hold for the whole cluster sees what happens to the stacks of its
/// environments.
fn is_seen(event: &Event, actor: &Actor) -> bool {
    let of_environment = event.subject.split_once('/').and_then(|(environment, _)| Name::parse(environment).ok());
    actor.sees_cluster() || of_environment.is_some_and(|environment| actor.sees(&environment))
}

fn events_after(published: &Published, after: u64, which: &Which, actor: &Actor) -> Vec<Event> {
    let later = published.cluster.events().range(after.saturating_add(1)..);
    later.map(|(_, event)| event).filter(|event| which.is_about(event) && is_seen(event, actor)).cloned().collect()
}

/// The last events that the token may see, the oldest first.
#[utoipa::path(get, path = "/api/v1/events", params(Which), responses((status = 200, body = List<Event>)))]
pub async fn list(
    Extension(actor): Extension<Actor>,
    Reading(published): Reading,
    Asked(which): Asked<Which>,
) -> Json<List<Event>> {
    let mut items = events_after(&published, which.after, &which, &actor);
    let surplus = items.len().saturating_sub(PAGE);
    items.drain(..surplus);
    Json(List { index: published.cluster.index(), items })
}

/// Events as they happen (server-sent events). Each carries its index as id; a watch that is taken
/// up with `Last-Event-ID` or `after` misses nothing, or is told by an event named `gap`. It ends with an event named
/// `end`, a problem, when the token is revoked.
#[utoipa::path(get, path = "/api/v1/watch", params(Which), responses((status = 200, body = String, content_type = "text/event-stream")))]
pub async fn watch(
    State(coordinator): State<Coordinator>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Asked(which): Asked<Which>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let from = resumed.unwrap_or(which.after);
    let states = WatchStream::new(coordinator.consensus.watch());
    let steps = states.scan((from, which, actor.clone()), |(seen, which, actor), published: Arc<Published>| {
        let mut out = Vec::new();
        let oldest = published.cluster.events().get_min().map_or(0, |(index, _)| *index);
        if *seen > 0 && *seen + 1 < oldest {
            out.push(SseEvent::default().event("gap").data(format!("events up to {} are gone", oldest - 1)));
        }
        for event in events_after(&published, *seen, which, actor) {
            *seen = event.index;
            out.extend(SseEvent::default().id(event.index.to_string()).event("event").json_data(&event));
        }
        let newest = published.cluster.events().get_max().map_or(0, |(index, _)| *index);
        *seen = newest.max(*seen);
        std::future::ready(Some(stream::iter(out.into_iter().map(Ok))))
    });
    let refused = actor.refused(coordinator.consensus.watch()).shared();
    let last =
        refused.clone().map(|problem| Ok(SseEvent::default().event("end").json_data(&problem).unwrap_or_default()));
    let events = steps.flatten().take_until(refused).chain(stream::once(last));
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_named_with_or_without_its_environment() {
        let cases = [
            ("default/x/web", "default/x/web", true),
            ("default/x/web/1.1", "default/x/web", true),
            ("default/x/web/1.1", "x/web", true),
            ("default/x/web/1.1", "x/web/1", true),
            ("default/x/website", "x/web", false),
            ("default/x/web", "web", false),
            ("other/x/web", "x/web", false),
            ("other/x/web", "other/x", true),
            ("member 1", "member 1", true),
        ];
        for (told, asked, expected) in cases {
            let environment = "default".parse().ok();
            let which = Which { after: 0, subject: Some(asked.to_owned()), environment };
            let (reason, message, output) = (String::new(), String::new(), Default::default());
            let subject = told.to_owned();
            let event = Event { index: 1, at: Default::default(), subject, reason, message, by: None, output };
            assert_eq!(which.is_about(&event), expected, "{asked} of {told}");
        }
    }
}
