//! What a write says when its leader loses the majority.

use common::error::Code;
use coordinator_core::RequestId;

use super::*;

#[tokio::test]
async fn a_write_that_may_have_been_made_is_never_told_that_there_is_no_leader() {
    let directory = tempfile::tempdir().expect("a folder");
    let (consensus, stop, _tasks) = group_of_one(directory.path()).await;
    consensus.propose(vec![admission().into()]).await.expect("it is admitted");
    consensus.raft.add_learner(2, openraft::BasicNode::new(NOWHERE), false).await.expect("is added");
    let put =
        |key: &str| Command::PutKey { environment: default_environment(), key: key.into(), value: Default::default() };
    let log_before = consensus.last_log_index();
    let mut writing = pin!(consensus.write(RequestId([1; 16]), put("in-the-log")));
    assert!(futures::poll!(&mut writing).is_pending());
    // Before it is in the log, half of the group is nowhere.
    let mut changing = pin!(consensus.raft.change_membership([1_u64, 2], false));
    assert!(futures::poll!(&mut changing).is_pending());
    let in_the_log = writing.await.expect_err("no majority has it");
    assert!(consensus.last_log_index() >= log_before + 2, "it is in the log, and a majority may still get it");
    assert_eq!(in_the_log.code, Code::ResultUnknown, "{in_the_log}");

    wait_for(&consensus, "it knows that it does not lead", |consensus| !consensus.leadership().leads).await;
    let nowhere = consensus.write(RequestId([2; 16]), put("nowhere")).await.expect_err("nobody leads");
    assert_eq!(nowhere.code, Code::NoLeader, "nobody has it: {nowhere}");
    stop.cancel();
    consensus.shutdown().await;
}
