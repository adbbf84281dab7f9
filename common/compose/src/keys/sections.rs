//! The keys of a file and of what it declares beside services.

use super::{Below::*, Key, done, ignored, partly, refused, service::SERVICE, warned};

pub(super) const TOP: &[Key] = &[
    done("configs").below(Named(CONFIG)),
    done("include").below(Items(&[done("env_file"), done("path"), done("project_directory")])),
    refused("models", "there is no model runner; run the model as a service and name its address in environment"),
    done("name"),
    done("networks").below(Named(NETWORK)),
    done("secrets").below(Named(SECRET)),
    done("services").below(Named(SERVICE)),
    ignored("version", "no version of compose reads it any more"),
    done("volumes").below(Named(VOLUME)),
];

const ADDRESSES: &str = "addresses come from the cluster's range";

const NETWORK: &[Key] = &[
    ignored("attachable", "wharf alone puts containers on its networks"),
    partly(
        "driver",
        "bridge and overlay, which are the cluster's overlay; host and none are asked for by network_mode",
    ),
    refused("driver_opts", "the overlay has no options of Docker's; it is encrypted by wharf up --overlay wireguard"),
    ignored("enable_ipv4", ADDRESSES),
    refused("enable_ipv6", "the overlay has IPv4 addresses alone; take it away"),
    partly("external", "it is another environment, which the service joins"),
    done("internal"),
    warned("ipam", ADDRESSES).below(Keys(&[
        ignored("config", ADDRESSES).below(Items(&[
            ignored("aux_addresses", ADDRESSES),
            ignored("gateway", ADDRESSES),
            ignored("ip_range", ADDRESSES),
            ignored("subnet", ADDRESSES),
        ])),
        refused("driver", "addresses are given by the cluster; take it away").unless(&["default"]),
        ignored("options", ADDRESSES),
    ])),
    warned("labels", "a network is not a thing of Docker's that could have labels"),
    partly("name", "of an external one, the environment; of others it is not used"),
];

const VOLUME: &[Key] = &[done("driver"), done("driver_opts"), done("external"), done("labels"), done("name")];

const CONFIG: &[Key] = &[
    done("content"),
    done("environment"),
    done("external"),
    done("file"),
    warned("labels", "nothing reads labels of configs and secrets"),
    partly("name", "of an external one"),
    refused("template_driver", "contents are given as they are; interpolation fills in variables of a content"),
];

const SECRET: &[Key] = &[
    done("content"),
    refused("driver", "secrets are kept by the cluster; set it with wharf secret set, and say external: true"),
    refused("driver_opts", "secrets are kept by the cluster; set it with wharf secret set, and say external: true"),
    done("environment"),
    done("external"),
    done("file"),
    warned("labels", "nothing reads labels of configs and secrets"),
    partly("name", "of an external one"),
    refused("template_driver", "contents are given as they are; interpolation fills in variables of a content"),
];
