//! YAML values with the text of every scalar and its place in the file.

use crate::place::Place;

/// A YAML value and its place.
#[derive(Debug, Clone)]
pub struct Node {
    /// The scalar, list or mapping.
    pub value: Value,
    /// The position in the file.
    pub place: Place,
    /// The merge instruction in its tag.
    pub(crate) tag: Tag,
}

/// The kinds of values.
#[derive(Debug, Clone)]
pub enum Value {
    /// A single text, number, boolean or null.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A mapping.
    Map(Map),
}

/// A scalar with its original text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The original text without quotes: `24.10` stays `24.10`.
    pub text: String,
    /// The type that YAML gives it.
    pub form: Form,
}

/// The type that YAML gives a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Null: an empty value, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// A number with a fraction or an exponent.
    Float,
    /// Text.
    Text,
}

/// The merge instructions of the compose specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tag {
    #[default]
    None,
    /// `!reset` removes the value of earlier files.
    Reset,
    /// `!override` replaces the value of earlier files.
    Override,
}

/// A mapping with unique keys in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Map {
    pub(crate) entries: Vec<Entry>,
}

/// An entry of a mapping.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The position of the key.
    pub place: Place,
    /// The value.
    pub node: Node,
}

impl Node {
    pub(crate) fn new(value: Value, place: Place) -> Node {
        Node { value, place, tag: Tag::None }
    }

    pub(crate) fn text(text: impl Into<String>, place: Place) -> Node {
        Node::new(Value::Scalar(Scalar { text: text.into(), form: Form::Text }), place)
    }

    pub(crate) fn boolean(value: bool, place: Place) -> Node {
        Node::new(Value::Scalar(Scalar { text: value.to_string(), form: Form::Bool }), place)
    }

    pub(crate) fn null(place: Place) -> Node {
        Node::new(Value::Scalar(Scalar { text: String::new(), form: Form::Null }), place)
    }

    /// Builds a mapping at this place.
    pub(crate) fn mapping(entries: impl IntoIterator<Item = (&'static str, Node)>, place: &Place) -> Node {
        let entry = |(key, node): (&str, Node)| Entry { key: key.to_owned(), place: place.clone(), node };
        Node::new(Value::Map(Map { entries: entries.into_iter().map(entry).collect() }), place.clone())
    }

    /// Whether the value is null.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.form == Form::Null)
    }

    /// The text of a scalar, unless it is null.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if scalar.form != Form::Null => Some(&scalar.text),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(crate) fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(crate) fn as_list_mut(&mut self) -> Option<&mut Vec<Node>> {
        match &mut self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The value under `key`, if it is a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.as_map_mut()?.get_mut(key)
    }

    /// Whether two values are equal, regardless of their places.
    pub fn same(&self, other: &Node) -> bool {
        match (&self.value, &other.value) {
            (Value::Scalar(a), Value::Scalar(b)) => a.form == b.form && (a.form == Form::Null || a.text == b.text),
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (Value::Map(a), Value::Map(b)) => {
                a.entries.len() == b.entries.len()
                    && a.entries.iter().all(|entry| b.get(&entry.key).is_some_and(|other| entry.node.same(other)))
            }
            _ => false,
        }
    }

    /// The kind of value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) => match scalar.form {
                Form::Null => "nothing",
                Form::Bool => "true or false",
                Form::Int | Form::Float => "a number",
                Form::Text => "text",
            },
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The value at a path such as `services.web.ports[0]`, or its nearest existing parent, with its place.
    pub(crate) fn nearest(&self, path: &str) -> (&Node, &Place) {
        let (mut at, mut place, mut rest) = (self, &self.place, path);
        while let Some((next, there, after)) = at.step(rest).filter(|_| !rest.is_empty()) {
            (at, place, rest) = (next, there, after);
        }
        (at, place)
    }

    /// Takes one step along a path. Keys may contain dots, so the longest matching key is taken.
    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Node, &'a Place, &'p str)> {
        match &self.value {
            Value::Scalar(_) => None,
            Value::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some((item, &item.place, rest.trim_start_matches('.')))
            }
            Value::Map(map) => {
                let fits = |entry: &&Entry| {
                    let rest = path.strip_prefix(entry.key.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                };
                let entry = map.entries.iter().filter(fits).max_by_key(|entry| entry.key.len())?;
                Some((&entry.node, entry.best_place(), path[entry.key.len()..].trim_start_matches('.')))
            }
        }
    }
}

impl Entry {
    /// The place to show for it: that of the value, or of its key if the value starts on a later line.
    pub(crate) fn best_place(&self) -> &Place {
        if self.node.as_text().is_some() { &self.node.place } else { &self.place }
    }
}

impl Map {
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node)
    }

    /// The entries in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Sets the value under `key`, replacing an existing one.
    pub(crate) fn set(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(there) => *there = node,
            None => self.entries.push(Entry { key: key.to_owned(), place: node.place.clone(), node }),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Node> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at).node)
    }
}

impl serde::Serialize for Node {
    /// Serializes numbers as numbers, unless only their text preserves what was written: `0x1F`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::List(items) => serializer.collect_seq(items),
            Value::Map(map) => serializer.collect_map(map.entries.iter().map(|entry| (&entry.key, &entry.node))),
            Value::Scalar(Scalar { text, form }) => match form {
                Form::Null => serializer.serialize_unit(),
                Form::Bool => serializer.serialize_bool(text == "true"),
                Form::Int | Form::Float => match (text.parse::<i64>(), text.parse::<f64>()) {
                    (Ok(number), _) => serializer.serialize_i64(number),
                    (_, Ok(number)) if number.is_finite() => serializer.serialize_f64(number),
                    _ => serializer.serialize_str(text),
                },
                Form::Text => serializer.serialize_str(text),
            },
        }
    }
}
