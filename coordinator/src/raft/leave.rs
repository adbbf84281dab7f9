//! How a coordinator leaves its group by itself, as a host does that is to be no part of the cluster any more.

use std::time::Duration;

use common::{
    error::{Code, Problem},
    id::MemberId,
    wire::Open,
};
use coordinator_core::{Command, Outcome, access::Refusal};
use link::{LinkError, call::Caller};
use tokio::time::Instant;

use super::{MemberAnswer, MemberCall, group_of, propose::FORWARD_TIMEOUT};

const LEAVES_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// Asks whichever coordinator leads that `me` leaves, and waits until the others go on without it.
pub async fn leave(coordinators: &[Caller], me: MemberId) -> Result<(), Problem> {
    let deadline = Instant::now() + LEAVES_WITHIN;
    let (mut agreed, mut why) = (false, "no coordinator answers".to_owned());
    while Instant::now() < deadline {
        for coordinator in coordinators {
            let asked = if agreed { is_out(coordinator, me).await } else { ask(coordinator, me).await };
            match asked {
                Ok(Step::Out) => return Ok(()),
                Ok(Step::Agreed) => agreed = true,
                Ok(Step::Waits) => {}
                Ok(Step::Refused(problem)) => return Err(problem),
                Err(error) => why = error.to_string(),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Problem::new(Code::ResultUnknown, format!("Coordinator {me} has not left its group within {LEAVES_WITHIN:?}"))
        .why(why))
}

enum Step {
    Waits,
    Agreed,
    Out,
    Refused(Problem),
}

async fn ask(coordinator: &Caller, me: MemberId) -> Result<Step, LinkError> {
    let call = MemberCall::Propose(vec![Command::RemoveMember(me).into()]);
    let open = Open::Member(common::codec::encode(&call)?);
    Ok(match coordinator.ask(&open, FORWARD_TIMEOUT).await? {
        MemberAnswer::Refused(Refusal::Removed) => Step::Out,
        MemberAnswer::Proposed(Ok(outcomes)) => match outcomes.into_iter().next() {
            Some(Outcome::Rejected(problem)) => Step::Refused(problem),
            _ => Step::Agreed,
        },
        _ => Step::Waits,
    })
}

async fn is_out(coordinator: &Caller, me: MemberId) -> Result<Step, LinkError> {
    let group = group_of(coordinator).await?;
    let stays = |group: Vec<_>| group.iter().any(|member: &super::GroupMember| member.id == me);
    Ok(if group.is_some_and(stays) { Step::Waits } else { Step::Out })
}
