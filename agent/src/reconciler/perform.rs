//! Does one action: waits until it may be done, has what it needs in its place, asks the container engine, and removes
//! what the instance leaves behind. [`Work`] says all of that.

use std::{future::pending, sync::Arc, time::Duration};

use agent_core::{Action, ActionResult, Awaited, Need, Seen, Wait, Work, images::ServicePart, network::Residents};
use common::{assignment::AssignedInstance, directory::Directory, part::PartId};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use crate::{files::Files, images::Images, leases::Leases, runtime::ContainerRuntime};

/// The parts of the host that actions work with.
pub(super) struct Host<R: ?Sized> {
    pub(super) runtime: Arc<R>,
    pub(super) files: Files,
    pub(super) leases: Arc<Leases>,
    pub(super) images: Images,
    pub(super) directory: watch::Receiver<Directory>,
    pub(super) admitted: watch::Receiver<Option<Residents>>,
}

/// Does an action with all that it takes.
pub(super) async fn perform<R: ContainerRuntime + ?Sized>(
    host: &Host<R>,
    action: &Action,
    work: &Work,
) -> ActionResult {
    if let Err(result) = prepare(host, work).await {
        return result;
    }
    let result = ask_engine(host, action, work.instance.as_ref()).await;
    if work.is_last && result == ActionResult::Done {
        let instance = &action.part().instance;
        host.leases.forget(instance);
        if let Err(error) = host.files.places().remove(instance) {
            warn!(%instance, %error, "its configs and secrets could not be removed");
        }
    }
    result
}

/// Waits for what the action awaits, then brings what it needs.
async fn prepare<R: ?Sized>(host: &Host<R>, work: &Work) -> Result<(), ActionResult> {
    if let Some(awaited) = &work.awaits {
        wait(host, awaited).await?;
    }
    let Some(instance) = &work.instance else { return Ok(()) };
    for need in &work.needs {
        bring(host, *need, instance).await?;
    }
    Ok(())
}

/// Asks again after each change whether the action may be done.
async fn wait<R: ?Sized>(host: &Host<R>, awaited: &Awaited) -> Result<(), ActionResult> {
    let (mut directory, mut admitted) = (host.directory.clone(), host.admitted.clone());
    let (began, mut waited) = (Instant::now(), Duration::ZERO);
    loop {
        let answer = {
            let (directory, admitted) = (directory.borrow_and_update(), admitted.borrow_and_update());
            awaited.look(Seen { directory: &directory, admitted: admitted.as_ref(), waited })
        };
        match answer {
            Wait::Over => return Ok(()),
            Wait::For(rest) => {
                sleep(rest).await;
                return Ok(());
            }
            Wait::ForChange(at_most) => {
                let change = async {
                    tokio::select! {
                        Ok(()) = directory.changed() => {}
                        Ok(()) = admitted.changed() => {}
                        // The agent stops.
                        else => pending().await,
                    }
                };
                // Either way it asks again.
                let _ = timeout(at_most, change).await;
            }
            Wait::InVain(result) => return Err(result),
        }
        waited = began.elapsed();
    }
}

async fn bring<R: ?Sized>(host: &Host<R>, need: Need, instance: &AssignedInstance) -> Result<(), ActionResult> {
    let failed = |what: &str, error| ActionResult::Failed(format!("{what} cannot be kept: {error}"));
    match need {
        Need::Holder => host.files.places().ensure_binary().map_err(|e| failed("the holder of its network", e)),
        Need::Files => host.files.ensure(instance).await,
        Need::Lease => host.leases.ensure(&instance.id).map_err(|e| failed("its lease", e)),
    }
}

async fn ask_engine<R: ContainerRuntime + ?Sized>(
    host: &Host<R>,
    action: &Action,
    instance: Option<&AssignedInstance>,
) -> ActionResult {
    let runtime = &host.runtime;
    match (action, instance) {
        (Action::Prepare(id), Some(instance)) => fetch(host, id, instance).await,
        (Action::Create(id), Some(instance)) => runtime.create(instance, &id.part).await,
        (Action::Prepare(_) | Action::Create(_), None) => {
            ActionResult::Failed("it is not assigned any more".to_owned())
        }
        (Action::Start { container, .. }, _) => runtime.start(container).await,
        (Action::Stop { container, grace, .. }, _) => runtime.stop(container, *grace).await,
        (Action::Remove { container, .. }, _) => runtime.remove(container).await,
    }
}

/// Has the image of a part on the host, and remembered, so that it stays for the container.
async fn fetch<R: ContainerRuntime + ?Sized>(host: &Host<R>, id: &PartId, instance: &AssignedInstance) -> ActionResult {
    host.images.settle().await;
    match host.runtime.prepare(instance, &id.part).await {
        Ok(ready) => {
            host.images.note(ServicePart::from(id), ready).await;
            ActionResult::Prepared
        }
        Err(result) => result,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path};

    use common::{directory::Endpoint, id::InstanceId};
    use tokio::sync::Notify;

    use super::*;
    use crate::{files::Places, runtime::fake::Fake};

    fn id(slot: u8) -> InstanceId {
        format!("default/shop/web/{slot}.1").parse().expect("an id")
    }

    /// A directory that leads callers to these slots.
    fn serving(slots: &[u8]) -> Directory {
        let mut directory = Directory::default();
        for slot in slots {
            let endpoint = Endpoint { address: [10, 42, 1, *slot].into(), serves: true };
            directory.put_instance(id(*slot), Some(endpoint));
        }
        directory
    }

    fn host(directory: watch::Receiver<Directory>, admitted: watch::Receiver<Option<Residents>>) -> Host<Fake> {
        let places = Places::new(Path::new("/nowhere"), Path::new("/nowhere"));
        let leases = Arc::new(Leases::new(places.clone(), Arc::new(Notify::new())));
        let files = Files::new(places, watch::channel(None).1);
        Host { runtime: Arc::default(), files, leases, images: Images::channel().0, directory, admitted }
    }

    #[tokio::test]
    async fn an_action_goes_on_with_the_change_that_it_awaits() {
        let (directories, directory) = watch::channel(serving(&[1, 2]));
        let address = Ipv4Addr::new(10, 42, 1, 1);
        let (admitting, admitted) = watch::channel(Some(Residents::new()));
        let host = host(directory, admitted);
        let (start, stop) = (Awaited::Admitted(address, id(1).into()), Awaited::Unlisted(id(1)));
        let began = Instant::now();
        let (started, stopped, ()) = tokio::join!(wait(&host, &start), wait(&host, &stop), async {
            directories.send_replace(serving(&[1, 2, 3]));
            admitting.send_replace(Some([(address, id(2).into())].into()));
            sleep(Duration::from_millis(50)).await;
            assert!(timeout(Duration::from_millis(50), wait(&host, &start)).await.is_err(), "another one's address");
            directories.send_replace(serving(&[2, 3]));
            admitting.send_replace(Some([(address, id(1).into())].into()));
        });
        assert_eq!((started, stopped), (Ok(()), Ok(())));
        assert!(began.elapsed() < Duration::from_secs(3), "the change ended both waits, and not the time");
    }

    #[tokio::test]
    async fn an_action_ends_its_wait_without_the_change_when_its_time_is_over() {
        let (directories, directory) = watch::channel(serving(&[1, 2]));
        let (admitting, admitted) = watch::channel(Some(Residents::new()));
        let host = host(directory, admitted);
        // The agent stops: no change can come any more.
        drop((directories, admitting));
        assert_eq!(wait(&host, &Awaited::Unlisted(id(1))).await, Ok(()));
    }
}
