//! Events: what was decided, listed or watched.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::sse::{Event as SseEvent, KeepAlive, Sse},
};
use common::api::{Event, List};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio_stream::wrappers::WatchStream;
use utoipa::IntoParams;

use super::extract::{Asked, Reading};
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
}

fn about(event: &Event, subject: Option<&str>) -> bool {
    subject.is_none_or(|subject| {
        event
            .subject
            .strip_prefix(subject)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest.starts_with('.'))
    })
}

fn events_after(published: &Published, after: u64, subject: Option<&str>) -> Vec<Event> {
    let later = published.cluster.events.range(after.saturating_add(1)..);
    later.map(|(_, event)| event).filter(|event| about(event, subject)).cloned().collect()
}

/// The last events, the oldest first.
#[utoipa::path(get, path = "/api/v1/events", params(Which), responses((status = 200, body = List<Event>)))]
pub async fn list(Reading(published): Reading, Asked(which): Asked<Which>) -> Json<List<Event>> {
    let mut items = events_after(&published, which.after, which.subject.as_deref());
    let surplus = items.len().saturating_sub(PAGE);
    items.drain(..surplus);
    Json(List { index: published.cluster.index, items })
}

/// Events as they happen (server-sent events). Each carries its index as id; a watch that is taken
/// up with `Last-Event-ID` or `after` misses nothing, or is told by an event named `gap`.
#[utoipa::path(get, path = "/api/v1/watch", params(Which), responses((status = 200, body = String, content_type = "text/event-stream")))]
pub async fn watch(
    State(coordinator): State<Coordinator>,
    headers: HeaderMap,
    Asked(which): Asked<Which>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let from = resumed.unwrap_or(which.after);
    let states = WatchStream::new(coordinator.consensus.watch());
    let steps = states.scan((from, which.subject), |(seen, subject), published: Arc<Published>| {
        let mut out = Vec::new();
        let oldest = published.cluster.events.get_min().map_or(0, |(index, _)| *index);
        if *seen > 0 && *seen + 1 < oldest {
            out.push(SseEvent::default().event("gap").data(format!("events up to {} are gone", oldest - 1)));
        }
        for event in events_after(&published, *seen, subject.as_deref()) {
            *seen = event.index;
            out.extend(SseEvent::default().id(event.index.to_string()).event("event").json_data(&event));
        }
        let newest = published.cluster.events.get_max().map_or(0, |(index, _)| *index);
        *seen = newest.max(*seen);
        std::future::ready(Some(stream::iter(out.into_iter().map(Ok))))
    });
    Sse::new(steps.flatten()).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}
