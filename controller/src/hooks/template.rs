//! Go templates, as far as hooks need them. Strict: what is not understood is refused by name before anything runs.
//!
//! There are text, `{{ pipeline }}`, `{{ $x := pipeline }}`, `if`, `else if`, `else`, `end`, comments, the trimming of `{{-` and `-}}`,
//! and the functions of [`functions`]. The dot is always the summary of the session. Of text/template `range`, `with`, `define`,
//! `template`, `block` and methods are left out, and of sprig what reads the environment, the clock or the network.

use value::Value;

mod eval;
mod functions;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;
pub mod value;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub struct TemplateError(String);

impl TemplateError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A text that was read.
#[derive(Clone, Debug)]
pub struct Template {
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// Without an action: it stays as it is, white space included.
    Plain(String),
    Nodes(Vec<parser::Node>),
}

impl Template {
    /// Reads a text. `sample` has the fields that there are.
    ///
    /// # Errors
    ///
    /// It uses something that is not understood, or a field that does not exist.
    pub fn parse(text: &str, sample: &Value) -> Result<Self, TemplateError> {
        if !text.contains("{{") {
            return Ok(Self { content: Content::Plain(text.to_owned()) });
        }
        let nodes = parser::parse(lexer::segments(text)?, sample)?;
        Ok(Self { content: Content::Nodes(nodes) })
    }

    /// Fills it in, without white space at its ends, as Stash does.
    ///
    /// # Errors
    ///
    /// A function was given what it does not take.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        match &self.content {
            Content::Plain(text) => Ok(text.clone()),
            Content::Nodes(nodes) => eval::render(nodes, data).map(|text| text.trim().to_owned()),
        }
    }
}
