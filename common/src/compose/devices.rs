//! Devices that a container has to itself: `deploy.resources.reservations.devices`, `generic_resources` beside it,
//! and `gpus`.

use std::collections::BTreeMap;

use super::node::Node;
use crate::device::{DeviceAmount, DeviceRequest, GPU};

/// Reads all of them, by kind.
pub(super) fn devices(service: &Node<'_>) -> BTreeMap<String, DeviceRequest> {
    let mut found = BTreeMap::new();
    if let Some(node) = service.get("gpus") {
        // "all", or a list like that of the reservations.
        match node.is_list() {
            true => node.items().iter().for_each(|item| add(item, gpu(item, false), &mut found)),
            false if node.text().as_deref() == Some("all") => {
                let all = DeviceRequest { amount: DeviceAmount::All, capabilities: Vec::new() };
                add(&node, Some((GPU.to_owned(), all)), &mut found);
            }
            false => node.problem("it is the word all, or a list with count or device_ids"),
        }
    }
    let resources = service.get("deploy").and_then(|deploy| deploy.get("resources"));
    let Some(reservations) = resources.and_then(|resources| resources.get("reservations")) else { return found };
    for item in reservations.get("devices").map(|node| node.items()).unwrap_or_default() {
        add(&item, gpu(&item, true), &mut found);
    }
    for item in reservations.get("generic_resources").map(|node| node.items()).unwrap_or_default() {
        add(&item, generic(&item), &mut found);
    }
    found
}

fn add(node: &Node<'_>, read: Option<(String, DeviceRequest)>, found: &mut BTreeMap<String, DeviceRequest>) {
    let Some((kind, request)) = read else { return };
    if found.contains_key(&kind) {
        return node.problem(format!("there is a request for {kind} already"));
    }
    found.insert(kind, request);
}

/// `capabilities` must name gpu in a reservation, and need not under `gpus`.
fn gpu(node: &Node<'_>, must_say_so: bool) -> Option<(String, DeviceRequest)> {
    node.warn_unknown(&["capabilities", "driver", "count", "device_ids"]);
    let mut capabilities = node.get("capabilities").map(|node| node.texts()).unwrap_or_default();
    if must_say_so && !capabilities.iter().any(|capability| capability == GPU) {
        node.problem("capabilities must name gpu; devices of other kinds are asked for by generic_resources");
        return None;
    }
    capabilities.retain(|capability| capability != GPU);
    if let Some(driver) = node.get("driver")
        && driver.text().is_some_and(|text| text != "nvidia")
    {
        driver.problem("only nvidia is supported; devices of other kinds are asked for by generic_resources");
        return None;
    }
    let amount = match (node.get("count"), node.get("device_ids")) {
        (Some(count), Some(_)) => {
            count.problem("count and device_ids exclude one another");
            return None;
        }
        (None, Some(ids)) => DeviceAmount::These(ids.texts()),
        (Some(count), None) if count.text().as_deref() != Some("all") => DeviceAmount::Count(count.number()?),
        (_, None) => DeviceAmount::All,
    };
    Some((GPU.to_owned(), DeviceRequest { amount, capabilities }))
}

fn generic(node: &Node<'_>) -> Option<(String, DeviceRequest)> {
    node.warn_unknown(&["discrete_resource_spec"]);
    let Some(spec) = node.get("discrete_resource_spec") else {
        node.problem("discrete_resource_spec is missing");
        return None;
    };
    spec.warn_unknown(&["kind", "value"]);
    let (Some(kind), Some(value)) = (spec.get("kind"), spec.get("value")) else {
        spec.problem("kind and value are needed");
        return None;
    };
    Some((kind.text()?, DeviceRequest { amount: DeviceAmount::Count(value.number()?), capabilities: Vec::new() }))
}
