//! The top-level keys, and the keys of declarations other than services.

use super::{Below::*, Key, done, ignored, partly, refused, service::SERVICE, warned};

pub(super) const TOP: &[Key] = &[
    done("configs").below(Named(CONFIG)),
    done("include").below(Items(&[done("env_file"), done("path"), done("project_directory")])),
    refused("models", "wharf has no model runner: run the model as a service and put its address into environment"),
    done("name"),
    done("networks").below(Named(NETWORK)),
    done("secrets").below(Named(SECRET)),
    done("services").below(Named(SERVICE)),
    ignored("version", "compose itself ignores it"),
    done("volumes").below(Named(VOLUME)),
];

const ADDRESSES: &str = "addresses come from the cluster's range";

const NETWORK: &[Key] = &[
    ignored("attachable", "only wharf attaches containers to its networks"),
    partly("driver", "bridge and overlay both mean the cluster's overlay; for host and none, use network_mode"),
    refused("driver_opts", "the overlay has no Docker options; to encrypt it, use wharf up --overlay wireguard"),
    ignored("enable_ipv4", ADDRESSES),
    refused("enable_ipv6", "the overlay has only IPv4 addresses: remove this key"),
    partly("external", "the network is another environment, which the service joins"),
    done("internal"),
    warned("ipam", ADDRESSES).below(Keys(&[
        ignored("config", ADDRESSES).below(Items(&[
            ignored("aux_addresses", ADDRESSES),
            ignored("gateway", ADDRESSES),
            ignored("ip_range", ADDRESSES),
            ignored("subnet", ADDRESSES),
        ])),
        refused("driver", "the cluster assigns addresses: remove this key").unless(&["default"]),
        ignored("options", ADDRESSES),
    ])),
    warned("labels", "wharf's networks are not Docker networks, so they have no labels"),
    partly("name", "the environment of an external network; otherwise it has no effect"),
];

const VOLUME: &[Key] = &[done("driver"), done("driver_opts"), done("external"), done("labels"), done("name")];

const CONFIG: &[Key] = &[
    done("content"),
    done("environment"),
    done("external"),
    done("file"),
    warned("labels", "wharf does not use labels of configs and secrets"),
    partly("name", "only of external ones"),
    refused("template_driver", "wharf does not render templates; variables in content are interpolated"),
];

const SECRET: &[Key] = &[
    done("content"),
    refused("driver", "the cluster stores secrets: set it with wharf secret set, and write external: true"),
    refused("driver_opts", "the cluster stores secrets: set it with wharf secret set, and write external: true"),
    done("environment"),
    done("external"),
    done("file"),
    warned("labels", "wharf does not use labels of configs and secrets"),
    partly("name", "only of external ones"),
    refused("template_driver", "wharf does not render templates; variables in content are interpolated"),
];
