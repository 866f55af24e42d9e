//! A source file, read into tokens that know their line and whether they belong to a test.
//!
//! Rules look at tokens, not at a syntax tree: that covers what stands inside macros, and leaves out
//! strings and comments. What is skipped as a test is what follows `#[test]` or `#[cfg(test)]`, and
//! files that hold tests only.

use std::collections::BTreeSet;
use std::ops::Range;

use proc_macro2::{Delimiter, Group, LexError, Spacing, Span, TokenStream, TokenTree};

/// A file as the rules see it.
#[derive(Debug)]
pub(crate) struct Source {
    /// The path from the folder of the workspace, with `/`.
    pub(crate) path: String,
    /// Everything that is code.
    pub(crate) tokens: Vec<Token>,
    /// Comments and doc comments, line by line.
    pub(crate) comments: Vec<Comment>,
    /// Functions with a body.
    pub(crate) functions: Vec<Function>,
    /// The file's own private `use` items.
    pub(crate) uses: Vec<Use>,
    /// The modules that the file declares.
    pub(crate) modules: Vec<String>,
    /// The numbers of empty lines.
    pub(crate) blank: BTreeSet<usize>,
    /// Lines that are not tests.
    pub(crate) lines: usize,
    /// Whether the whole file is a test.
    pub(crate) is_test: bool,
}

/// A word or a mark.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// As written; `::` is one token, brackets are tokens.
    pub(crate) text: String,
    /// The line where it starts.
    pub(crate) line: usize,
    /// The line where it ends.
    pub(crate) last_line: usize,
    /// How many modules with a body inside the file it lies in.
    pub(crate) depth: usize,
    /// Whether it belongs to a test.
    pub(crate) is_test: bool,
}

impl Token {
    /// Whether this is a name or a keyword.
    pub(crate) fn is_word(&self) -> bool {
        self.text
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// One line of a comment.
#[derive(Debug)]
pub(crate) struct Comment {
    /// The line.
    pub(crate) line: usize,
    /// The text with its slashes, without space around.
    pub(crate) text: String,
}

impl Comment {
    /// Whether it is documentation, not a remark for readers of the code.
    pub(crate) fn is_doc(&self) -> bool {
        self.text.starts_with("///") || self.text.starts_with("//!")
    }
}

/// A function with a body.
#[derive(Debug)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// The line of its name.
    pub(crate) line: usize,
    /// Lines of its body with code on them.
    pub(crate) length: usize,
    /// Whether it is a test or part of one.
    pub(crate) is_test: bool,
    /// Whether it says, with a reason, that it is long.
    pub(crate) long_on_purpose: bool,
}

/// A private `use` item at the top of a file.
#[derive(Debug)]
pub(crate) struct Use {
    /// The first name of its path.
    pub(crate) root: String,
    /// Its first and last line, attributes not counted.
    pub(crate) lines: (usize, usize),
    /// Items of other sorts before it: `use` items with the same number stand together.
    pub(crate) block: usize,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// When the text is not made of Rust tokens.
    pub(crate) fn read(path: &str, text: &str) -> Result<Self, LexError> {
        let stream: TokenStream = text.parse()?;
        let is_test = is_test_path(path);
        let mut reader = Reader::new(text, is_test);
        reader.level(stream, &mut Level::new(is_test, 0, true));
        let lines = text.lines().count();
        let test_lines: usize = reader.test_lines.iter().map(|(a, b)| b - a + 1).sum();
        let whole = is_test || reader.whole_file_is_test;
        Ok(Self {
            path: path.to_owned(),
            comments: comments(text, &reader.covered),
            tokens: reader.tokens,
            functions: reader.functions,
            uses: reader.uses,
            modules: reader.modules,
            blank: blank_lines(text),
            lines: if whole {
                0
            } else {
                lines.saturating_sub(test_lines)
            },
            is_test: whole,
        })
    }

    /// The file's name without folder and ending.
    pub(crate) fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.strip_suffix(".rs").unwrap_or(name)
    }
}

/// Whether a file holds tests or benchmarks only.
fn is_test_path(path: &str) -> bool {
    path.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

fn blank_lines(text: &str) -> BTreeSet<usize> {
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.trim().is_empty())
        .map(|(number, _)| number)
        .collect()
}

/// What tokens leave uncovered is comments and space.
fn comments(text: &str, covered: &[Range<usize>]) -> Vec<Comment> {
    let mut found = Vec::new();
    let mut from = 0;
    let mut line = 1;
    let end = text.len()..text.len();
    for token in covered.iter().chain([&end]) {
        let gap = text.get(from..token.start).unwrap_or_default();
        for (offset, part) in gap.split('\n').enumerate() {
            if !part.trim().is_empty() {
                found.push(Comment {
                    line: line + offset,
                    text: part.trim().to_owned(),
                });
            }
        }
        line += text
            .get(from..token.end)
            .unwrap_or_default()
            .matches('\n')
            .count();
        from = token.end;
    }
    found
}

/// The item that is being read at one level of brackets.
#[derive(Debug, Default)]
struct Item {
    /// Where it starts, its attributes included.
    first_line: Option<usize>,
    /// Whether an attribute makes it a test.
    is_test: bool,
    /// Whether an attribute says that it is long, and why.
    long_on_purpose: bool,
    /// The name of the function that it is.
    function: Option<(String, usize)>,
    /// The name of the module that it is.
    module: Option<String>,
    /// The line of the keyword, when it is a `use` item.
    import: Option<usize>,
    /// The first name of the path, when it is a `use` item.
    root: Option<String>,
    /// Whether it is public.
    public: bool,
}

/// What is between two brackets, or the whole file.
#[derive(Debug)]
struct Level {
    is_test: bool,
    depth: usize,
    top: bool,
    item: Item,
}

impl Level {
    fn new(is_test: bool, depth: usize, top: bool) -> Self {
        Self {
            is_test,
            depth,
            top,
            item: Item::default(),
        }
    }
}

#[derive(Debug)]
struct Reader<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    covered: Vec<Range<usize>>,
    functions: Vec<Function>,
    uses: Vec<Use>,
    modules: Vec<String>,
    test_lines: Vec<(usize, usize)>,
    block: usize,
    whole_file_is_test: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, is_test: bool) -> Self {
        Self {
            text,
            tokens: Vec::new(),
            covered: Vec::new(),
            functions: Vec::new(),
            uses: Vec::new(),
            modules: Vec::new(),
            test_lines: Vec::new(),
            block: 0,
            whole_file_is_test: is_test,
        }
    }

    fn level(&mut self, stream: TokenStream, level: &mut Level) {
        let mut trees = stream.into_iter().peekable();
        while let Some(tree) = trees.next() {
            if self.is_doc_comment(&tree) {
                // A doc comment is one span for `#`, perhaps `!`, and the bracketed text.
                let text = trees.next();
                if matches!(text, Some(TokenTree::Punct(_))) {
                    trees.next();
                }
                continue;
            }
            let line = tree.span().start().line;
            level.item.first_line.get_or_insert(line);
            match tree {
                TokenTree::Group(group) => self.group(&group, level),
                TokenTree::Ident(ident) => self.word(&ident.to_string(), ident.span(), level),
                TokenTree::Literal(literal) => {
                    self.push(literal.to_string(), literal.span(), level);
                },
                TokenTree::Punct(punct) => {
                    let joint = punct.as_char() == ':' && punct.spacing() == Spacing::Joint;
                    let colon = trees.next_if(
                        |next| matches!(next, TokenTree::Punct(p) if joint && p.as_char() == ':'),
                    );
                    if let Some(second) = colon {
                        self.covered.push(second.span().byte_range());
                        self.push("::".to_owned(), punct.span(), level);
                    } else {
                        self.push(punct.to_string(), punct.span(), level);
                    }
                    if punct.as_char() == ';' {
                        self.end_item(line, level);
                    }
                },
            }
        }
    }

    fn is_doc_comment(&self, tree: &TokenTree) -> bool {
        let TokenTree::Punct(punct) = tree else {
            return false;
        };
        punct.as_char() == '#'
            && self
                .text
                .get(punct.span().byte_range())
                .is_some_and(|text| text.starts_with('/'))
    }

    fn push(&mut self, text: String, span: Span, level: &Level) {
        self.covered.push(span.byte_range());
        self.tokens.push(Token {
            text,
            line: span.start().line,
            last_line: span.end().line,
            depth: level.depth,
            is_test: level.is_test || level.item.is_test,
        });
    }

    fn word(&mut self, word: &str, span: Span, level: &mut Level) {
        let line = span.start().line;
        let before = self.tokens.last().map_or("", |token| token.text.as_str());
        let item = &mut level.item;
        match before {
            "fn" => item.function = Some((word.to_owned(), line)),
            "mod" => item.module = Some(word.to_owned()),
            _ => {},
        }
        match word {
            "pub" => item.public = true,
            "use" => item.import = Some(line),
            _ if item.import.is_some() && item.root.is_none() => item.root = Some(word.to_owned()),
            _ => {},
        }
        self.push(word.to_owned(), span, level);
    }

    fn group(&mut self, group: &Group, level: &mut Level) {
        let (open, close) = match group.delimiter() {
            Delimiter::Brace => ("{", "}"),
            Delimiter::Bracket => ("[", "]"),
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::None => ("", ""),
        };
        if open == "[" {
            self.attribute(group, level);
        }
        let is_item_body = open == "{" && level.item.import.is_none();
        let is_module = is_item_body && level.item.module.is_some();
        self.push(open.to_owned(), group.span_open(), level);
        let from = self.tokens.len();
        let mut inner = Level::new(
            level.is_test || level.item.is_test,
            level.depth + usize::from(is_module),
            false,
        );
        self.level(group.stream(), &mut inner);
        let to = self.tokens.len();
        self.push(close.to_owned(), group.span_close(), level);
        if is_item_body {
            self.function(from..to, level);
            self.end_item(group.span_close().end().line, level);
        }
    }

    fn attribute(&mut self, group: &Group, level: &mut Level) {
        let inner = self.tokens.last().is_some_and(|token| token.text == "!");
        let mut text = group.stream().to_string();
        text.retain(|c| !c.is_whitespace());
        let is_test = text == "test"
            || text == "cfg(test)"
            || text.starts_with("tokio::test")
            || text.starts_with("cfg(all(test,");
        if is_test && inner {
            level.is_test = true;
            self.whole_file_is_test |= level.top;
        }
        level.item.is_test |= is_test && !inner;
        level.item.long_on_purpose |= text.starts_with("expect(")
            && text.contains("clippy::too_many_lines")
            && text.contains("reason=");
    }

    fn function(&mut self, body: Range<usize>, level: &mut Level) {
        let Some((name, line)) = level.item.function.take() else {
            return;
        };
        let lines: BTreeSet<usize> = self.tokens[body]
            .iter()
            .flat_map(|token| token.line..=token.last_line)
            .collect();
        self.functions.push(Function {
            name,
            line,
            length: lines.len(),
            is_test: level.is_test || level.item.is_test,
            long_on_purpose: level.item.long_on_purpose,
        });
    }

    fn end_item(&mut self, last_line: usize, level: &mut Level) {
        let item = std::mem::take(&mut level.item);
        if item.is_test && !level.is_test {
            let first = item.first_line.unwrap_or(last_line);
            self.test_lines.push((first, last_line));
        }
        if !level.top {
            return;
        }
        self.modules.extend(item.module);
        match (item.import, item.root) {
            (Some(first), Some(root)) if !item.public && !item.is_test => self.uses.push(Use {
                root,
                lines: (first, last_line),
                block: self.block,
            }),
            _ => self.block += 1,
        }
    }
}
