//! Renders values as YAML such that parsing gives the same value.

use crate::{
    node::{Form, Node, Scalar, Value},
    yaml::form_of,
};

/// Renders a value in block style, indented by two spaces per level.
pub(crate) fn yaml(node: &Node) -> String {
    let mut out = String::new();
    block(node, 0, &mut out);
    out
}

/// Writes a value that starts on its own line.
fn block(node: &Node, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match &node.value {
        Value::Scalar(scalar) => {
            out.push_str(&format!("{margin}{}\n", text(scalar)));
        }
        Value::List(items) if items.is_empty() => out.push_str(&format!("{margin}[]\n")),
        Value::Map(map) if map.entries().is_empty() => out.push_str(&format!("{margin}{{}}\n")),
        Value::List(items) => {
            for item in items {
                out.push_str(&format!("{margin}-"));
                // The first line of the item follows the dash.
                let mut below = String::new();
                block(item, indent + 2, &mut below);
                out.push(' ');
                out.push_str(below.get(indent + 2..).unwrap_or_default());
            }
        }
        Value::Map(map) => {
            for entry in map.entries() {
                out.push_str(&format!("{margin}{}:", key(&entry.key)));
                match &entry.node.value {
                    Value::Scalar(scalar) => out.push_str(&format!(" {}\n", text(scalar))),
                    Value::List(items) if items.is_empty() => out.push_str(" []\n"),
                    Value::Map(map) if map.entries().is_empty() => out.push_str(" {}\n"),
                    Value::List(_) | Value::Map(_) => {
                        out.push('\n');
                        block(&entry.node, indent + 2, out);
                    }
                }
            }
        }
    }
}

fn key(key: &str) -> String {
    if is_plain(key) && form_of(key) == Form::Text { key.to_owned() } else { quoted(key) }
}

fn text(scalar: &Scalar) -> String {
    match scalar.form {
        Form::Null => "null".to_owned(),
        Form::Bool | Form::Int | Form::Float => scalar.text.clone(),
        Form::Text if is_plain(&scalar.text) && form_of(&scalar.text) == Form::Text => scalar.text.clone(),
        Form::Text => quoted(&scalar.text),
    }
}

/// Whether a text needs no quotes, also for YAML 1.1 parsers, which read `yes` as a boolean.
fn is_plain(text: &str) -> bool {
    let words = ["y", "n", "yes", "no", "on", "off"];
    let Some(first) = text.chars().next() else { return false };
    if words.contains(&text.to_ascii_lowercase().as_str()) || text.ends_with([' ', ':']) {
        return false;
    }
    // Some parsers do not read dates, times and numbers with underscores as text.
    if first.is_ascii_digit() && text.contains([':', '_', '-']) {
        return false;
    }
    let is_special = |c: char| c.is_control() || "{}[],&*!|>'\"%@`\u{feff}\u{85}\u{2028}\u{2029}".contains(c);
    let begins = first.is_alphanumeric() || "_./".contains(first);
    begins && !text.contains(": ") && !text.contains(" #") && !text.contains(is_special)
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || "\u{feff}\u{85}\u{2028}\u{2029}".contains(c) => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
