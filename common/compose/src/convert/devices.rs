//! Devices reserved for a container: `deploy.resources.reservations.devices`, `generic_resources` beside it, and
//! `gpus`.

use std::collections::BTreeMap;

use common::device::{DeviceAmount, DeviceRequest, GPU};

use crate::field::Field;

/// Reads all device requests, by kind.
pub(super) fn devices(service: &Field<'_>) -> BTreeMap<String, DeviceRequest> {
    let mut found = BTreeMap::new();
    if let Some(field) = service.get("gpus") {
        // `gpus` is "all", or a list like that in the reservations.
        match field.is_list() {
            true => field.items().iter().for_each(|item| add(item, gpu(item, false), &mut found)),
            false if field.text().as_deref() == Some("all") => {
                let all = DeviceRequest { amount: DeviceAmount::All, capabilities: Vec::new() };
                add(&field, Some((GPU.to_owned(), all)), &mut found);
            }
            false => field.problem("it must be the word all, or a list with count or device_ids"),
        }
    }
    let Some(reservations) = service.along(&["deploy", "resources", "reservations"]) else { return found };
    for item in reservations.items_of("devices") {
        add(&item, gpu(&item, true), &mut found);
    }
    for item in reservations.items_of("generic_resources") {
        add(&item, generic(&item), &mut found);
    }
    found
}

fn add(field: &Field<'_>, read: Option<(String, DeviceRequest)>, found: &mut BTreeMap<String, DeviceRequest>) {
    let Some((kind, request)) = read else { return };
    if found.contains_key(&kind) {
        return field.problem(format!("there is already a request for {kind}"));
    }
    found.insert(kind, request);
}

/// Reads a request for GPUs. In reservations `capabilities` must contain gpu, under `gpus` it need not.
fn gpu(field: &Field<'_>, must_say_so: bool) -> Option<(String, DeviceRequest)> {
    let mut capabilities = field.texts_of("capabilities");
    if must_say_so && !capabilities.iter().any(|capability| capability == GPU) {
        field.problem("capabilities must contain gpu: for other kinds of devices use generic_resources");
        return None;
    }
    capabilities.retain(|capability| capability != GPU);
    if let Some(driver) = field.get("driver")
        && driver.text().is_some_and(|text| text != "nvidia")
    {
        driver.problem("only nvidia is supported: for other kinds of devices use generic_resources");
        return None;
    }
    let amount = match (field.get("count"), field.get("device_ids")) {
        (Some(count), Some(_)) => {
            count.problem("use either count or device_ids");
            return None;
        }
        (None, Some(ids)) => DeviceAmount::These(ids.items().iter().filter_map(Field::text).collect()),
        (Some(count), None) if count.text().as_deref() != Some("all") => DeviceAmount::Count(count.number()?),
        (_, None) => DeviceAmount::All,
    };
    Some((GPU.to_owned(), DeviceRequest { amount, capabilities }))
}

fn generic(field: &Field<'_>) -> Option<(String, DeviceRequest)> {
    let Some(spec) = field.get("discrete_resource_spec") else {
        field.problem("discrete_resource_spec is missing");
        return None;
    };
    let (Some(kind), Some(value)) = (spec.get("kind"), spec.get("value")) else {
        spec.problem("kind and value are required");
        return None;
    };
    Some((kind.text()?, DeviceRequest { amount: DeviceAmount::Count(value.number()?), capabilities: Vec::new() }))
}
