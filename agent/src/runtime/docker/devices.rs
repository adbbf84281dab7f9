//! Devices that a container has to itself: those that Docker knows, and how a request names them.

use std::collections::BTreeMap;

use bollard::models::{DeviceRequest, GenericResourcesInner};
use common::{
    assignment::AssignedInstance,
    device::{Devices, GPU},
    part::Part,
    spec::ContainerSpec,
};

/// The largest number of a discrete resource that counts.
const MOST: i64 = 1024;

/// The generic resources that operators gave Docker (`node-generic-resources`): names as they are, numbers as that many
/// from 1.
pub(super) fn generic(resources: Vec<GenericResourcesInner>) -> Devices {
    let mut devices = Devices::new();
    for resource in resources {
        if let Some(named) = resource.named_resource_spec {
            devices.entry(named.kind.unwrap_or_default()).or_default().extend(named.value);
        } else if let Some(discrete) = resource.discrete_resource_spec {
            let ids = (1..=discrete.value.unwrap_or(0).min(MOST)).map(|number| number.to_string());
            devices.entry(discrete.kind.unwrap_or_default()).or_default().extend(ids);
        }
    }
    devices
}

/// How a program learns which devices it has: as in a Swarm, `DOCKER_RESOURCE_<KIND>=<id>,<id>`.
pub(super) fn environment(instance: &AssignedInstance, part: &Part) -> impl Iterator<Item = String> {
    let variable =
        |(kind, ids): (&str, Vec<&str>)| format!("DOCKER_RESOURCE_{}={}", kind.to_uppercase(), ids.join(","));
    by_kind(instance, part).into_iter().map(variable)
}

/// How Docker learns which GPUs to show in a container.
pub(super) fn requests(instance: &AssignedInstance, part: &Part, spec: &ContainerSpec) -> Option<Vec<DeviceRequest>> {
    let ids = by_kind(instance, part).remove(GPU)?;
    let more = spec.devices.get(GPU).map(|request| request.capabilities.as_slice()).unwrap_or_default();
    Some(vec![request(&ids, more)])
}

fn request(ids: &[&str], more: &[String]) -> DeviceRequest {
    DeviceRequest {
        driver: Some("nvidia".to_owned()),
        device_ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()),
        capabilities: Some(vec![[&[GPU.to_owned()], more].concat()]),
        ..DeviceRequest::default()
    }
}

fn by_kind<'a>(instance: &'a AssignedInstance, part: &Part) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for device in instance.devices.iter().filter(|device| device.part == *part) {
        found.entry(&device.kind).or_default().push(&device.id);
    }
    found
}

#[cfg(test)]
mod tests {
    use bollard::models::{GenericResourcesInnerDiscreteResourceSpec, GenericResourcesInnerNamedResourceSpec};

    use super::*;

    #[test]
    fn docker_is_asked_for_certain_gpus() {
        let asked = serde_json::to_value(request(&["GPU-a", "GPU-b"], &["utility".to_owned()])).expect("it is JSON");
        let expected = serde_json::json!({
            "Driver": "nvidia", "DeviceIDs": ["GPU-a", "GPU-b"], "Capabilities": [["gpu", "utility"]]
        });
        assert_eq!(asked, expected, "what docker run --gpus sends");
    }

    #[test]
    fn generic_resources_are_devices_by_name_or_by_number() {
        let named = |kind: &str, value: &str| GenericResourcesInner {
            named_resource_spec: Some(GenericResourcesInnerNamedResourceSpec {
                kind: Some(kind.to_owned()),
                value: Some(value.to_owned()),
            }),
            ..GenericResourcesInner::default()
        };
        let discrete = |value| GenericResourcesInner {
            discrete_resource_spec: Some(GenericResourcesInnerDiscreteResourceSpec {
                kind: Some("seat".to_owned()),
                value: Some(value),
            }),
            ..GenericResourcesInner::default()
        };
        let devices = generic(vec![named("card", "b"), named("card", "a"), discrete(2)]);
        let list = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(devices, [("card".to_owned(), list(&["b", "a"])), ("seat".to_owned(), list(&["1", "2"]))].into());
        assert_eq!(generic(vec![discrete(i64::MAX)])["seat"].len(), 1024, "a slip of the pen fills no memory");
        assert_eq!(generic(vec![discrete(-1)])["seat"].len(), 0);
    }
}
