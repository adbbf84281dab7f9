//! Makes relative paths absolute, from the directory of the project or of the file that contains them.

use std::collections::BTreeMap;

use crate::node::{Node, Value};

/// The maximum length of a path, in bytes.
const MAX_PATH: usize = 4096;

/// Resolves a path to an absolute one without `.` and `..`.
pub(crate) fn absolute(path: &str, directory: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if path.len() > MAX_PATH || path.chars().any(char::is_control) {
        return Err(format!("the path is longer than {MAX_PATH} bytes or contains a control character"));
    }
    let mut parts: Vec<&str> = Vec::new();
    let before = if path.starts_with('/') { "" } else { directory };
    for part in before.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Resolves the path of a file that the client reads, where `~` is the user's home. URLs are refused.
pub(crate) fn to_read(path: &str, directory: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    if path.contains("://") || path.starts_with("git@") {
        return Err("wharf does not fetch remote files: download the file and use its path".to_owned());
    }
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match variables.get("HOME") {
            Some(home) => absolute(&format!("{home}{rest}"), "/"),
            None => Err("'~' stands for HOME, which is not set".to_owned()),
        },
        _ => absolute(path, directory),
    }
}

/// The folder of a file.
pub(crate) fn folder(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => ".",
    }
}

/// Makes the paths in a file absolute. Invalid paths stay as they are, and the conversion reports them.
pub(crate) fn resolve(file: &mut Node, directory: &str, variables: &BTreeMap<String, String>) {
    let read = |node: &mut Node| rewrite(node, |path| to_read(path, directory, variables));
    let on_host = |node: &mut Node| match node.as_text() {
        Some(path) if path.starts_with('~') => {}
        _ => rewrite(node, |path| absolute(path, directory)),
    };
    for service in values(file.get_mut("services")) {
        for item in items(service.get_mut("env_file")) {
            item.get_mut("path").into_iter().for_each(read);
        }
        items(service.get_mut("label_file")).for_each(read);
        for mount in items(service.get_mut("volumes")) {
            let is_bind = mount.get("type").and_then(Node::as_text) == Some("bind");
            mount.get_mut("source").filter(|_| is_bind).into_iter().for_each(on_host);
        }
        if let Some(build) = service.get_mut("build") {
            build.get_mut("context").into_iter().for_each(read);
            values(build.get_mut("additional_contexts")).for_each(read);
        }
    }
    for section in ["configs", "secrets"] {
        for declared in values(file.get_mut(section)) {
            declared.get_mut("file").into_iter().for_each(read);
        }
    }
    for volume in values(file.get_mut("volumes")) {
        let Some(options) = volume.get_mut("driver_opts") else { continue };
        let is_bind = options.get("o").and_then(Node::as_text).is_some_and(|o| o.split(',').any(|o| o == "bind"));
        options.get_mut("device").filter(|_| is_bind).into_iter().for_each(on_host);
    }
}

fn rewrite(node: &mut Node, with: impl Fn(&str) -> Result<String, String>) {
    if let Some(Ok(path)) = node.as_text().map(with)
        && let Value::Scalar(scalar) = &mut node.value
    {
        scalar.text = path;
    }
}

fn values(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    let entries = node.and_then(Node::as_map_mut).map(|map| &mut map.entries);
    entries.into_iter().flatten().map(|entry| &mut entry.node)
}

fn items(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    node.and_then(Node::as_list_mut).into_iter().flatten()
}
