//! Fills a template in.

use super::TemplateError;
use super::parser::{Expression, Node};
use super::value::Value;

/// Fills in `nodes` with `data`.
pub(super) fn render(nodes: &[Node], data: &Value) -> Result<String, TemplateError> {
    let mut scope = Scope { data, variables: Vec::new() };
    let mut text = String::new();
    scope.block(nodes, &mut text)?;
    Ok(text)
}

struct Scope<'a> {
    data: &'a Value,
    variables: Vec<(String, Value)>,
}

impl Scope<'_> {
    fn block(&mut self, nodes: &[Node], text: &mut String) -> Result<(), TemplateError> {
        let known = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(literal) => text.push_str(literal),
                Node::Print(expression) => text.push_str(&self.value(expression)?.shown()?),
                Node::Set { name, new, value } => {
                    let value = self.value(value)?;
                    match self.variables.iter_mut().rev().find(|(other, _)| other == name).filter(|_| !new) {
                        Some((_, old)) => *old = value,
                        None => self.variables.push((name.clone(), value)),
                    }
                }
                Node::If(branches) => {
                    for (condition, nodes) in branches {
                        if self.value(condition)?.is_true() {
                            self.block(nodes, text)?;
                            break;
                        }
                    }
                }
            }
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn value(&self, expression: &Expression) -> Result<Value, TemplateError> {
        match expression {
            Expression::Literal(value) => Ok(value.clone()),
            Expression::Field(path) => self.data.at(path),
            Expression::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(other, _)| other == name);
                found.map_or(Ok(Value::Nil), |(_, value)| value.at(path))
            }
            // The rest is not looked at once the outcome is certain.
            Expression::Call(function, arguments) if matches!(function.name, "and" | "or") => {
                let mut last = Value::Nil;
                for argument in arguments {
                    last = self.value(argument)?;
                    if last.is_true() == (function.name == "or") {
                        break;
                    }
                }
                Ok(last)
            }
            Expression::Call(function, arguments) => {
                let arguments = arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>, _>>()?;
                let refuse = |TemplateError(why)| TemplateError::new(format!("{}: {why}", function.name));
                (function.call)(&arguments).map_err(refuse)
            }
        }
    }
}
