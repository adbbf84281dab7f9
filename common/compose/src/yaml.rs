//! Parses YAML into [`Node`]s. Expands anchors and merge keys, and refuses documents that are too large and duplicate
//! keys.
//!
//! The events come from saphyr-parser. Its own tree (saphyr) resolves scalars to numbers and loses their original text,
//! so we build the tree here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag as YamlTag};

use crate::{
    ComposeError, MAX_DEPTH, MAX_FILE, MAX_KEY, MAX_KEYS, MAX_NODES, MAX_TEXT,
    node::{Entry, Form, Map, Node, Scalar, Tag, Value},
    place::Place,
};

/// Parses the documents in a file, without empty ones.
pub(crate) fn documents(name: &Arc<str>, text: &str) -> Result<Vec<Node>, ComposeError> {
    if text.len() > MAX_FILE {
        return Err(ComposeError::TooLarge { file: name.to_string(), size: text.len() });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder {
        file: name,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        total: Size::default(),
        documents: Vec::new(),
    };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| builder.refused(&error))?;
        builder.event(event, span.start)?;
    }
    Ok(builder.documents)
}

/// What a node counts for, with all that is in it.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// How many values it has, itself included.
    nodes: usize,
    /// How many bytes their texts have.
    text: usize,
}

impl Size {
    fn add(&mut self, more: Size) {
        self.nodes = self.nodes.saturating_add(more.nodes);
        self.text = self.text.saturating_add(more.text);
    }
}

/// A node with what it counts for where an alias repeats it.
#[derive(Clone)]
struct Built {
    node: Node,
    size: Size,
    /// How many levels it has.
    height: usize,
    /// Whether it is an unquoted `<<`.
    is_merge: bool,
}

/// A list or mapping that has not ended yet.
struct Open {
    anchor: usize,
    tag: Tag,
    place: Place,
    size: Size,
    height: usize,
    within: Within,
}

enum Within {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: BTreeSet<String>, merged: Vec<Node>, key: Option<(String, Place, bool)> },
}

impl Within {
    fn mapping() -> Within {
        Within::Map { entries: Vec::new(), seen: BTreeSet::new(), merged: Vec::new(), key: None }
    }
}

struct Builder<'a> {
    file: &'a Arc<str>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Built>,
    total: Size,
    documents: Vec<Node>,
}

impl Builder<'_> {
    fn place(&self, at: Marker) -> Place {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Place { file: self.file.clone(), line: count(at.line().max(1)), column: count(at.col() + 1) }
    }

    fn syntax(&self, at: Marker, reason: impl Into<String>) -> ComposeError {
        ComposeError::Syntax { place: self.place(at), reason: reason.into() }
    }

    /// Converts a parser error. The parser has its own depth limit for flow collections.
    fn refused(&self, error: &ScanError) -> ComposeError {
        if error.info().contains("recursion limit") {
            let reason = format!("it is nested deeper than {MAX_DEPTH} levels");
            return ComposeError::TooComplex { place: self.place(*error.marker()), reason };
        }
        self.syntax(*error.marker(), format!("it is not YAML: {}", error.info()))
    }

    fn event(&mut self, event: Event<'_>, at: Marker) -> Result<(), ComposeError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(id) => {
                let Some(built) = self.anchors.get(&id).cloned() else {
                    return Err(self.syntax(at, "an alias refers to a value that contains it"));
                };
                self.count(built.size, at)?;
                self.add(built, at)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let (tag, core) = self.tag(tag.as_deref(), at)?;
                let form = match (style, core) {
                    (_, Some("str")) => Form::Text,
                    (ScalarStyle::Plain, _) => form_of(&text),
                    (_, Some("int" | "float" | "bool" | "null")) => form_of(&text),
                    _ => Form::Text,
                };
                let is_merge = style == ScalarStyle::Plain && text == "<<";
                let size = Size { nodes: 1, text: text.len() };
                let value = Value::Scalar(Scalar { text: text.into_owned(), form });
                let node = Node { value, place: self.place(at), tag };
                self.count(size, at)?;
                self.done(anchor, Built { node, size, height: 0, is_merge }, at)
            }
            Event::SequenceStart(anchor, tag) => {
                let (tag, _) = self.tag(tag.as_deref(), at)?;
                self.begin(anchor, tag, Within::List(Vec::new()), at)
            }
            Event::MappingStart(anchor, tag) => {
                let (tag, _) = self.tag(tag.as_deref(), at)?;
                self.begin(anchor, tag, Within::mapping(), at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
        }
    }

    /// The merge instruction of a tag, and the name of a YAML core tag.
    fn tag<'t>(&self, tag: Option<&'t YamlTag>, at: Marker) -> Result<(Tag, Option<&'t str>), ComposeError> {
        let Some(tag) = tag else { return Ok((Tag::None, None)) };
        let own = ["str", "int", "float", "bool", "null", "map", "seq"];
        match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "reset") => Ok((Tag::Reset, None)),
            ("!", "override") => Ok((Tag::Override, None)),
            ("!", "") => Ok((Tag::None, Some("str"))),
            (_, name) if tag.is_yaml_core_schema() && own.contains(&name) => Ok((Tag::None, Some(name))),
            _ => Err(self.syntax(at, format!("the tag {tag} is not supported: use !reset or !override"))),
        }
    }

    fn count(&mut self, more: Size, at: Marker) -> Result<(), ComposeError> {
        self.total.add(more);
        let reason = if self.total.nodes > MAX_NODES {
            format!("it has more than {MAX_NODES} values once its aliases are expanded")
        } else if self.total.text > MAX_TEXT {
            format!("it has more than {MAX_TEXT} bytes of text once its aliases are expanded")
        } else {
            return Ok(());
        };
        Err(ComposeError::TooComplex { place: self.place(at), reason })
    }

    fn deep(&self, levels: usize, at: Marker) -> Result<(), ComposeError> {
        if levels > MAX_DEPTH {
            let reason = format!("it is nested deeper than {MAX_DEPTH} levels");
            return Err(ComposeError::TooComplex { place: self.place(at), reason });
        }
        Ok(())
    }

    fn begin(&mut self, anchor: usize, tag: Tag, within: Within, at: Marker) -> Result<(), ComposeError> {
        let size = Size { nodes: 1, text: 0 };
        self.count(size, at)?;
        self.deep(self.open.len() + 1, at)?;
        let place = self.place(at);
        self.open.push(Open { anchor, tag, place, size, height: 0, within });
        Ok(())
    }

    fn end(&mut self, at: Marker) -> Result<(), ComposeError> {
        let Some(open) = self.open.pop() else { return Err(self.syntax(at, "unexpected end of a list or mapping")) };
        let value = match open.within {
            Within::List(items) => Value::List(items),
            Within::Map { mut entries, mut seen, merged, .. } => {
                for node in merged {
                    let Value::Map(map) = node.value else { continue };
                    entries.extend(map.entries.into_iter().filter(|entry| seen.insert(entry.key.clone())));
                }
                Value::Map(Map { entries })
            }
        };
        let node = Node { value, place: open.place, tag: open.tag };
        self.done(open.anchor, Built { node, size: open.size, height: open.height + 1, is_merge: false }, at)
    }

    fn done(&mut self, anchor: usize, built: Built, at: Marker) -> Result<(), ComposeError> {
        if anchor > 0 {
            self.anchors.insert(anchor, built.clone());
        }
        self.add(built, at)
    }

    /// Adds a node to the open list or mapping, or to the documents.
    fn add(&mut self, built: Built, at: Marker) -> Result<(), ComposeError> {
        self.deep(self.open.len() + built.height, at)?;
        let Some(open) = self.open.last_mut() else {
            if !built.node.is_null() {
                self.documents.push(built.node);
            }
            return Ok(());
        };
        open.size.add(built.size);
        open.height = open.height.max(built.height);
        let refused = match &mut open.within {
            Within::List(items) => {
                items.push(built.node);
                None
            }
            Within::Map { entries, seen, key: key @ None, .. } => match key_of(&built.node, entries, seen) {
                Ok(text) => {
                    *key = Some((text, built.node.place, built.is_merge));
                    None
                }
                Err(reason) => Some(reason),
            },
            Within::Map { entries, seen, merged, key } => {
                let (name, place, is_merge) =
                    key.take().unwrap_or_else(|| (String::new(), built.node.place.clone(), false));
                seen.insert(name.clone());
                if is_merge {
                    merge_key(built.node, merged).err().map(str::to_owned)
                } else {
                    entries.push(Entry { key: name, place, node: built.node });
                    (entries.len() > MAX_KEYS).then(|| format!("a mapping has more than {MAX_KEYS} keys"))
                }
            }
        };
        refused.map_or(Ok(()), |reason| Err(self.syntax(at, reason)))
    }
}

/// The key that a node of a mapping is.
fn key_of(node: &Node, entries: &[Entry], seen: &BTreeSet<String>) -> Result<String, String> {
    let Value::Scalar(Scalar { text, .. }) = &node.value else { return Err("a key must be text".to_owned()) };
    if text.len() > MAX_KEY {
        return Err(format!("a key has more than {MAX_KEY} bytes"));
    }
    if seen.contains(text) {
        let first = entries.iter().find(|entry| entry.key == *text).map(|entry| entry.place.line);
        let line = first.map(|line| format!("; the first is in line {line}")).unwrap_or_default();
        return Err(format!("the key {text:?} appears twice{line}"));
    }
    Ok(text.clone())
}

/// The mappings that `<<` names.
fn merge_key(node: Node, merged: &mut Vec<Node>) -> Result<(), &'static str> {
    let refuse = Err("\"<<\" takes a mapping, or a list of mappings");
    match node.value {
        Value::Map(_) => merged.push(node),
        Value::List(items) => {
            if items.iter().any(|item| item.as_map().is_none()) {
                return refuse;
            }
            merged.extend(items);
        }
        Value::Scalar(_) => return refuse,
    }
    Ok(())
}

/// The type of unquoted text in YAML 1.2. Words such as `yes` are text, as in compose.
pub(crate) fn form_of(text: &str) -> Form {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Form::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Form::Bool,
        ".nan" | ".NaN" | ".NAN" => Form::Float,
        _ => number_form(text),
    }
}

fn number_form(text: &str) -> Form {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Form::Float;
    }
    let all = |rest: &str, allowed: fn(char) -> bool| !rest.is_empty() && rest.chars().all(allowed);
    for (prefix, allowed) in [
        ("0x", (|c: char| c.is_ascii_hexdigit()) as fn(char) -> bool),
        ("0o", |c: char| ('0'..='7').contains(&c)),
        ("0b", |c: char| c == '0' || c == '1'),
    ] {
        if let Some(rest) = digits.strip_prefix(prefix) {
            return if all(rest, allowed) { Form::Int } else { Form::Text };
        }
    }
    if all(digits, |c| c.is_ascii_digit()) {
        return Form::Int;
    }
    let is_number_like = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.chars().any(|c| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || ".eE+-".contains(c));
    if is_number_like && digits.parse::<f64>().is_ok() { Form::Float } else { Form::Text }
}

#[cfg(test)]
mod tests;
