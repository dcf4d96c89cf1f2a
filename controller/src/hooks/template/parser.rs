//! Makes a tree of a template's segments, and refuses what there is no function, field or variable for.

use super::TemplateError;
use super::functions::{self, Function};
use super::lexer::{Segment, Token};
use super::value::Value;

/// How deep a template nests at most.
const DEPTH: usize = 32;

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Is printed as it is.
    Text(String),
    /// Is printed.
    Print(Expression),
    /// Sets a variable.
    Set {
        /// Its name.
        name: String,
        /// Whether it is new.
        new: bool,
        /// Its value.
        value: Expression,
    },
    /// Prints the first part whose condition is true.
    If(Vec<(Expression, Vec<Self>)>),
}

/// Something with a value.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    /// A value that stands there.
    Literal(Value),
    /// A field of the summary.
    Field(Vec<String>),
    /// A variable, or a field of one.
    Variable(String, Vec<String>),
    /// A call.
    Call(&'static Function, Vec<Self>),
}

/// Reads all segments.
pub(super) fn parse(segments: Vec<Segment>, sample: &Value) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { segments: segments.into_iter(), sample, variables: Vec::new(), depth: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::Else(_) => Err(TemplateError::new("an else stands without if")),
        Stop::End => Err(TemplateError::new("an end stands without if")),
    }
}

struct Parser<'a> {
    segments: std::vec::IntoIter<Segment>,
    sample: &'a Value,
    variables: Vec<String>,
    depth: usize,
}

/// What ended a block.
enum Stop {
    Text,
    /// With what follows the word.
    Else(Vec<Token>),
    End,
}

impl Parser<'_> {
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, TemplateError>) -> Result<T, TemplateError> {
        if self.depth == DEPTH {
            return Err(TemplateError::new(format!("it nests deeper than {DEPTH}")));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn block(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let known = self.variables.len();
        let mut nodes = Vec::new();
        let end = loop {
            let tokens = match self.segments.next() {
                None => break Stop::Text,
                Some(Segment::Text(text)) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Some(Segment::Action(tokens)) => tokens,
            };
            match &tokens[..] {
                [Token::Name(word)] if word == "end" => break Stop::End,
                [Token::Name(word), rest @ ..] if word == "else" => break Stop::Else(rest.to_vec()),
                [Token::Name(word), condition @ ..] if word == "if" => {
                    let node = self.deeper(|parser| parser.branches(condition.to_vec()))?;
                    nodes.push(node);
                }
                [Token::Variable(name, path), Token::Set { new }, value @ ..]
                    if !name.is_empty() && path.is_empty() =>
                {
                    let value = self.pipeline(value)?;
                    if *new {
                        self.variables.push(name.clone());
                    } else {
                        self.known(name)?;
                    }
                    nodes.push(Node::Set { name: name.clone(), new: *new, value });
                }
                tokens => nodes.push(Node::Print(self.pipeline(tokens)?)),
            }
        };
        self.variables.truncate(known);
        Ok((nodes, end))
    }

    fn branches(&mut self, first: Vec<Token>) -> Result<Node, TemplateError> {
        let mut branches = Vec::new();
        let mut condition = self.pipeline(&first)?;
        let mut last = false;
        loop {
            let (nodes, end) = self.block()?;
            branches.push((condition, nodes));
            match end {
                Stop::End => return Ok(Node::If(branches)),
                Stop::Text => return Err(TemplateError::new("an if is not ended: {{ end }} is missing")),
                Stop::Else(_) if last => return Err(TemplateError::new("an else follows an else")),
                Stop::Else(rest) => match &rest[..] {
                    [] => {
                        last = true;
                        condition = Expression::Literal(Value::Bool(true));
                    }
                    [Token::Name(word), rest @ ..] if word == "if" => condition = self.pipeline(rest)?,
                    _ => return Err(TemplateError::new("only if may follow else")),
                },
            }
        }
    }

    fn pipeline(&mut self, tokens: &[Token]) -> Result<Expression, TemplateError> {
        let mut rest = tokens;
        let mut made: Option<Expression> = None;
        loop {
            let expression = self.command(&mut rest, made.take())?;
            match rest {
                [] => return Ok(expression),
                [Token::Pipe, after @ ..] => {
                    rest = after;
                    made = Some(expression);
                }
                [other, ..] => return Err(TemplateError::new(format!("{} is not understood here", shown(other)))),
            }
        }
    }

    /// Reads a call with its arguments, or a single value. What a pipe brings is the last argument.
    fn command(&mut self, rest: &mut &[Token], piped: Option<Expression>) -> Result<Expression, TemplateError> {
        let function = match rest {
            [Token::Name(name), after @ ..] if !is_constant(name) => {
                *rest = after;
                functions::find(name).ok_or_else(|| TemplateError::new(unknown(name)))?
            }
            _ => {
                let value = self.operand(rest)?;
                let alone = matches!(rest, [] | [Token::Pipe | Token::Close, ..]) && piped.is_none();
                let refuse = || TemplateError::new("a value is called as if it was a function");
                return if alone { Ok(value) } else { Err(refuse()) };
            }
        };
        let mut arguments = Vec::new();
        while !matches!(rest, [] | [Token::Pipe | Token::Close, ..]) {
            // A function without arguments may stand among arguments; none of ours is one.
            arguments.push(self.operand(rest)?);
        }
        arguments.extend(piped);
        functions::check(function, &arguments)?;
        Ok(Expression::Call(function, arguments))
    }

    fn operand(&mut self, rest: &mut &[Token]) -> Result<Expression, TemplateError> {
        let [first, after @ ..] = *rest else { return Err(TemplateError::new("a value is missing")) };
        *rest = after;
        match first {
            Token::Text(text) => Ok(Expression::Literal(Value::Text(text.clone()))),
            Token::Number(number) => Ok(Expression::Literal(Value::Number(*number))),
            Token::Field(path) => self.field(path),
            Token::Variable(name, path) if name.is_empty() => self.field(path),
            Token::Variable(name, path) => {
                self.known(name)?;
                Ok(Expression::Variable(name.clone(), path.clone()))
            }
            Token::Name(name) => match name.as_str() {
                "true" | "false" => Ok(Expression::Literal(Value::Bool(name == "true"))),
                "nil" => Ok(Expression::Literal(Value::Nil)),
                name => Err(TemplateError::new(format!("{name}: a call among arguments needs brackets"))),
            },
            Token::Open => self.deeper(|parser| {
                let (inner, after) = brackets(rest)?;
                *rest = after;
                parser.pipeline(inner)
            }),
            other => Err(TemplateError::new(format!("{} is not understood here", shown(other)))),
        }
    }

    fn field(&self, path: &[String]) -> Result<Expression, TemplateError> {
        self.sample.at(path)?;
        Ok(Expression::Field(path.to_vec()))
    }

    fn known(&self, name: &str) -> Result<(), TemplateError> {
        let known = self.variables.iter().any(|other| other == name);
        if known { Ok(()) } else { Err(TemplateError::new(format!("the variable ${name} is not set before"))) }
    }
}

/// Returns what stands up to the closing bracket, and what follows it.
fn brackets(tokens: &[Token]) -> Result<(&[Token], &[Token]), TemplateError> {
    let mut open = 1;
    for (place, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => open += 1,
            Token::Close => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Ok((&tokens[..place], &tokens[place + 1..]));
        }
    }
    Err(TemplateError::new("a bracket is not closed"))
}

fn is_constant(name: &str) -> bool {
    matches!(name, "true" | "false" | "nil")
}

fn unknown(name: &str) -> String {
    match name {
        "range" | "with" | "define" | "template" | "block" | "break" | "continue" => {
            format!("{name} is not supported; there are if, else, end and variables")
        }
        _ => format!("the function {name} is not supported; there are {}", functions::names().join(", ")),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Field(path) => format!(".{}", path.join(".")),
        Token::Variable(name, _) => format!("${name}"),
        Token::Name(name) => name.clone(),
        Token::Text(text) => format!("{text:?}"),
        Token::Number(number) => number.to_string(),
        Token::Pipe => "|".to_owned(),
        Token::Open => "(".to_owned(),
        Token::Close => ")".to_owned(),
        Token::Set { new } => if *new { ":=" } else { "=" }.to_owned(),
    }
}
