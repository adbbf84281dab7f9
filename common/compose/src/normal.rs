//! Converts every value to its long form, so that merging and conversion deal with only one.

use crate::{
    node::{Entry, Form, Map, Node, Scalar, Value},
    place::Findings,
    short,
};

/// Converts a file to its long form. Invalid values stay as they are, and the conversion reports them.
pub(crate) fn normalise(file: &mut Node, findings: &Findings) {
    for (name, service) in entries(file, "services") {
        Normal { findings, path: format!("services.{name}") }.service(service);
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        for (name, node) in entries(file, section) {
            let normal = Normal { findings, path: format!("{section}.{name}") };
            normal.pairs(node, "labels", Bare::Empty);
            external(node);
        }
    }
    if let Some(items) = file.get_mut("include").and_then(Node::as_list_mut) {
        for item in items {
            if item.as_text().is_some() {
                *item = wrapped(item, "path");
            }
            listed(item, "path");
            listed(item, "env_file");
        }
    }
}

fn entries<'a>(file: &'a mut Node, section: &str) -> impl Iterator<Item = (String, &'a mut Node)> {
    let entries = file.get_mut(section).and_then(Node::as_map_mut).map(|map| &mut map.entries);
    entries.into_iter().flatten().map(|entry| (entry.key.clone(), &mut entry.node))
}

/// The meaning of a name without a value.
#[derive(Clone, Copy)]
enum Bare {
    /// A variable with the value from the environment.
    Inherited,
    /// An empty text.
    Empty,
}

struct Normal<'a> {
    findings: &'a Findings,
    path: String,
}

impl Normal<'_> {
    fn service(&self, service: &mut Node) {
        if service.as_map().is_none() {
            return;
        }
        self.pairs(service, "environment", Bare::Inherited);
        for key in ["labels", "annotations", "sysctls"] {
            self.pairs(service, key, Bare::Empty);
        }
        for key in ["dns", "dns_search", "tmpfs", "env_file", "label_file"] {
            listed(service, key);
        }
        for key in ["command", "entrypoint"] {
            self.words(service, key);
        }
        if let Some(extends) = service.get_mut("extends").filter(|node| node.as_text().is_some()) {
            *extends = wrapped(extends, "service");
        }
        if let Some(build) = service.get_mut("build") {
            self.build(build);
        }
        if let Some(deploy) = service.get_mut("deploy") {
            self.pairs(deploy, "labels", Bare::Empty);
        }
        if let Some(test) = service.get_mut("healthcheck").and_then(|check| check.get_mut("test"))
            && test.as_text().is_some()
        {
            let items = vec![Node::text("CMD-SHELL", test.place.clone()), as_text(test)];
            replace(test, Value::List(items));
        }
        for step in service.get_mut("pre_start").and_then(Node::as_list_mut).into_iter().flatten() {
            self.pairs(step, "environment", Bare::Inherited);
            self.words(step, "command");
        }
        self.names(service);
        self.hosts(service);
        self.lists(service);
    }

    fn build(&self, build: &mut Node) {
        if build.as_text().is_some() {
            *build = wrapped(build, "context");
        }
        for (key, bare) in [("args", Bare::Inherited), ("labels", Bare::Empty), ("additional_contexts", Bare::Empty)] {
            self.pairs(build, key, bare);
        }
        self.hosts(build);
    }

    /// Lists of names that stand for a mapping.
    fn names(&self, service: &mut Node) {
        for key in ["depends_on", "networks", "models"] {
            let Some(node) = service.get_mut(key) else { continue };
            let Some(items) = node.as_list() else { continue };
            let value = |item: &Node| {
                let place = item.place.clone();
                if key != "depends_on" {
                    return Node::null(place);
                }
                let condition = Node::text("service_started", place.clone());
                Node::mapping([("condition", condition), ("required", Node::boolean(true, place.clone()))], &place)
            };
            let mut map = Map::default();
            for item in items {
                match item.as_text() {
                    Some(name) => map.set(name, value(item)),
                    None => self.problem(item, key, format!("expected a name, found {}", item.kind())),
                }
            }
            replace(node, Value::Map(map));
        }
    }

    /// Converts a list of `host:address`, or a mapping of hosts, to a mapping of address lists.
    fn hosts(&self, of: &mut Node) {
        let Some(node) = of.get_mut("extra_hosts") else { return };
        let mut hosts = Map::default();
        let mut add = |host: &str, address: Node| match hosts.get_mut(host).and_then(Node::as_list_mut) {
            Some(addresses) => addresses.push(address),
            None => hosts.set(host, Node::new(Value::List(vec![address.clone()]), address.place)),
        };
        match &node.value {
            Value::Scalar(_) => return,
            Value::List(items) => {
                for item in items {
                    let read = item.as_text().ok_or_else(|| format!("expected text, found {}", item.kind()));
                    match read.and_then(short::host) {
                        Ok((host, address)) => add(host, Node::text(address, item.place.clone())),
                        Err(reason) => self.problem(item, "extra_hosts", reason),
                    }
                }
            }
            Value::Map(map) => {
                for entry in &map.entries {
                    match entry.node.as_list() {
                        Some(addresses) => addresses.iter().for_each(|address| add(&entry.key, address.clone())),
                        None => add(&entry.key, entry.node.clone()),
                    }
                }
            }
        }
        replace(node, Value::Map(hosts));
    }

    /// Converts list items from their short to their long form.
    fn lists(&self, service: &mut Node) {
        for key in ["ports", "volumes", "devices", "configs", "secrets", "env_file"] {
            let Some(items) = service.get_mut(key).and_then(Node::as_list_mut) else { continue };
            let mut long = Vec::with_capacity(items.len());
            for (index, item) in std::mem::take(items).into_iter().enumerate() {
                let Some(text) = item.as_text() else {
                    long.push(item);
                    continue;
                };
                let read = match key {
                    "ports" => ports(text, &item),
                    "volumes" => mount(text, &item).map(|node| vec![node]),
                    "devices" => device(text, &item).map(|node| vec![node]),
                    "env_file" => Ok(vec![wrapped(&item, "path")]),
                    _ => Ok(vec![wrapped(&item, "source")]),
                };
                match read {
                    Ok(nodes) => long.extend(nodes.into_iter().map(|node| Node { tag: item.tag, ..node })),
                    Err(reason) => self.problem(&item, &format!("{key}[{index}]"), reason),
                }
            }
            *items = long;
        }
    }

    /// Converts `[KEY=value, KEY]` to a mapping. A key without a value means the same in both.
    fn pairs(&self, of: &mut Node, key: &str, bare: Bare) {
        let Some(node) = of.get_mut(key) else { return };
        let without = |node: &Node| match bare {
            Bare::Inherited => Node::null(node.place.clone()),
            Bare::Empty => Node { tag: node.tag, ..Node::text("", node.place.clone()) },
        };
        if let Value::Map(map) = &mut node.value {
            for entry in map.entries.iter_mut().filter(|entry| entry.node.is_null()) {
                entry.node = Node { tag: entry.node.tag, ..without(&entry.node) };
            }
            return;
        }
        let Value::List(items) = &node.value else { return };
        let mut map = Map::default();
        for (index, item) in items.iter().enumerate() {
            let Some(text) = item.as_text() else {
                let reason = format!("expected KEY=value, found {}; a mapping has no '-' before its keys", item.kind());
                self.problem(item, &format!("{key}[{index}]"), reason);
                continue;
            };
            match text.split_once('=') {
                Some((key, value)) => map.set(key, Node::text(value, item.place.clone())),
                None => map.set(text, without(item)),
            }
        }
        replace(node, Value::Map(map));
    }

    /// Splits a command given as one text into words.
    fn words(&self, of: &mut Node, key: &str) {
        let Some(node) = of.get_mut(key) else { return };
        let Some(text) = node.as_text() else { return };
        match short::words(text) {
            Ok(words) => {
                let items = words.into_iter().map(|word| Node::text(word, node.place.clone())).collect();
                replace(node, Value::List(items));
            }
            Err(reason) => {
                self.problem(node, key, reason);
                *node = Node::null(node.place.clone());
            }
        }
    }

    fn problem(&self, node: &Node, key: &str, reason: impl std::fmt::Display) {
        self.findings.problem(Some(&node.place), &format!("{}.{key}", self.path), reason);
    }
}

/// Replaces a value but keeps its tag.
fn replace(node: &mut Node, value: Value) {
    node.value = value;
}

fn as_text(node: &Node) -> Node {
    Node::text(node.as_text().unwrap_or_default(), node.place.clone())
}

/// Wraps a value into a mapping under `key`.
fn wrapped(node: &Node, key: &'static str) -> Node {
    Node { tag: node.tag, ..Node::mapping([(key, as_text(node))], &node.place) }
}

/// Converts a single text to a list.
fn listed(of: &mut Node, key: &str) {
    if let Some(node) = of.get_mut(key)
        && node.as_text().is_some()
    {
        let items = vec![as_text(node)];
        replace(node, Value::List(items));
    }
}

/// Converts `external: {name: x}`, the older form of `external: true` and `name: x`.
fn external(node: &mut Node) {
    let Some(map) = node.as_map_mut() else { return };
    let Some(external) = map.get("external").filter(|node| node.as_map().is_some()).cloned() else { return };
    if let Some(name) = external.get("name")
        && map.get("name").is_none()
    {
        let name = Entry { key: "name".to_owned(), place: name.place.clone(), node: name.clone() };
        map.entries.push(name);
    }
    map.set("external", Node::boolean(true, external.place));
}

fn ports(text: &str, item: &Node) -> Result<Vec<Node>, String> {
    let long = |port: short::Port| {
        let text = |text: String| Node::text(text, item.place.clone());
        let target = Value::Scalar(Scalar { text: port.target.to_string(), form: Form::Int });
        let mut entries = vec![("mode", text("ingress".to_owned()))];
        entries.extend(port.host_ip.map(|ip| ("host_ip", text(ip))));
        entries.push(("target", Node::new(target, item.place.clone())));
        entries.extend(port.published.map(|published| ("published", text(published))));
        entries.push(("protocol", text(port.protocol)));
        Node::mapping(entries, &item.place)
    };
    Ok(short::ports(text)?.into_iter().map(long).collect())
}

fn mount(text: &str, item: &Node) -> Result<Node, String> {
    let mount = short::mount(text)?;
    let place = &item.place;
    let text = |text: &str| Node::text(text, place.clone());
    let yes = || Node::boolean(true, place.clone());
    let mut entries = vec![("type", text(if mount.is_bind { "bind" } else { "volume" }))];
    entries.extend(mount.source.map(|source| ("source", text(source))));
    entries.push(("target", text(mount.target)));
    if mount.read_only {
        entries.push(("read_only", yes()));
    }
    if mount.is_bind {
        let mut bind = vec![("create_host_path", yes())];
        bind.extend(mount.propagation.map(|propagation| ("propagation", text(propagation))));
        bind.extend(mount.selinux.map(|selinux| ("selinux", text(selinux))));
        entries.push(("bind", Node::mapping(bind, place)));
    } else {
        let mut volume = Vec::new();
        if mount.no_copy {
            volume.push(("nocopy", yes()));
        }
        entries.push(("volume", Node::mapping(volume, place)));
    }
    Ok(Node::mapping(entries, place))
}

fn device(text: &str, item: &Node) -> Result<Node, String> {
    let (source, target, rights) = short::device(text)?;
    let node = |text: &str| Node::text(text, item.place.clone());
    let entries = [("source", node(source)), ("target", node(target)), ("permissions", node(rights.unwrap_or("rwm")))];
    Ok(Node::mapping(entries, &item.place))
}
