//! The one place that writes to the terminal: data to stdout, talk to stderr.
//!
//! Everything goes through [`Output`], never through `println!`, which panics when the reader of a
//! pipe has gone. Here that ends the command quietly.

use std::fmt::{Debug, Formatter};
use std::io::{BufRead, ErrorKind, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use super::failure::{Exit, Failure};
use super::table::{Table, harmless};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    /// The object of the API as JSON.
    Json,
    /// The object of the API as YAML.
    Yaml,
    /// One `kind/name` in each line.
    Name,
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Nothing but errors.
    Quiet,
    /// Lines, one after another.
    Lines,
    /// A terminal, where a line of progress may be rewritten.
    Live,
}

/// What people chose about the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// How data is printed.
    pub format: Format,
    /// Whether tables have a header.
    pub headers: bool,
    /// Whether tables are coloured.
    pub colour: bool,
    /// How much is said.
    pub talk: Talk,
}

/// Data in each form that it can be asked for in.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// For programs.
    pub value: Value,
    /// For people.
    pub table: Table,
    /// For other commands.
    pub names: Vec<String>,
    /// Said on stderr when there is nothing.
    pub nothing: String,
}

/// Where a command writes, and where it asks.
pub struct Output {
    data: Box<dyn Write + Send>,
    talk: Box<dyn Write + Send>,
    answers: Option<Box<dyn BufRead + Send>>,
    manner: Manner,
    progress: bool,
    last_progress: String,
}

impl Output {
    /// The terminal of this process. `env` answers for environment variables.
    pub fn of_process(mut manner: Manner, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let dumb = env("TERM").is_some_and(|term| term == "dumb");
        // https://no-color.org: present and not empty, whatever its value.
        let wanted = env("NO_COLOR").is_none_or(|value| value.is_empty());
        manner.colour = manner.colour && wanted && !dumb && stdout.is_terminal();
        if manner.talk == Talk::Live && (dumb || !stderr.is_terminal()) {
            manner.talk = Talk::Lines;
        }
        let asks = stdin.is_terminal() && stderr.is_terminal();
        let answers =
            asks.then(|| Box::new(std::io::BufReader::new(stdin)) as Box<dyn BufRead + Send>);
        Self::new(manner, Box::new(stdout), Box::new(stderr), answers)
    }

    /// An output to anything. Without `answers` nothing is ever asked.
    pub fn new(
        manner: Manner,
        data: Box<dyn Write + Send>,
        talk: Box<dyn Write + Send>,
        answers: Option<Box<dyn BufRead + Send>>,
    ) -> Self {
        Self {
            data,
            talk,
            answers,
            manner,
            progress: false,
            last_progress: String::new(),
        }
    }

    /// How data is printed.
    pub const fn format(&self) -> Format {
        self.manner.format
    }

    /// Whether tables have more columns.
    pub const fn wide(&self) -> bool {
        matches!(self.manner.format, Format::Wide)
    }

    /// Whether a program reads the data, so that nothing may be put between it.
    pub const fn for_programs(&self) -> bool {
        matches!(
            self.manner.format,
            Format::Json | Format::Yaml | Format::Name
        )
    }

    /// Prints data in the form that was asked for.
    ///
    /// # Errors
    /// The reader has gone, or the disk is full.
    pub fn show(&mut self, view: &View) -> Result<(), Failure> {
        match self.manner.format {
            Format::Table | Format::Wide if view.table.is_empty() => {
                self.say(&view.nothing);
                Ok(())
            },
            Format::Table | Format::Wide => self.table(&view.table, self.manner.headers),
            Format::Json | Format::Yaml => self.value(&view.value),
            Format::Name => self.text(&lines(&view.names)),
        }
    }

    /// Prints a table.
    ///
    /// # Errors
    /// The reader has gone, or the disk is full.
    pub fn table(&mut self, table: &Table, headers: bool) -> Result<(), Failure> {
        let headers = headers && self.manner.headers;
        self.text(&lines(&table.lines(headers, self.manner.colour)))
    }

    /// Prints the last row of a table as one more line of the table above it, and takes it out again.
    ///
    /// # Errors
    /// The reader has gone, or the disk is full.
    pub fn last_row(&mut self, table: &mut Table) -> Result<(), Failure> {
        let last = table.lines(self.manner.headers, self.manner.colour).pop();
        table.pop();
        self.text(&lines(&last.into_iter().collect::<Vec<_>>()))
    }

    /// Prints a value as YAML when that was asked for, as JSON otherwise.
    ///
    /// # Errors
    /// The reader has gone, or the disk is full.
    pub fn value(&mut self, value: &Value) -> Result<(), Failure> {
        match self.manner.format {
            Format::Yaml => self.text(&yaml(value)?),
            Format::Json | Format::Table | Format::Wide | Format::Name => {
                self.text(&format!("{value:#}\n"))
            },
        }
    }

    /// Prints one value of a stream: a line of JSON, or a document of YAML.
    ///
    /// # Errors
    /// The reader has gone, or the disk is full.
    pub fn event(&mut self, value: &Value) -> Result<(), Failure> {
        match self.manner.format {
            Format::Yaml => self.text(&format!("---\n{}", yaml(value)?)),
            Format::Json | Format::Table | Format::Wide | Format::Name => {
                self.text(&format!("{value}\n"))
            },
        }
    }

    /// Prints text as it is; the caller ends its lines.
    ///
    /// # Errors
    /// The reader has gone, or the disk is full.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// The reader has gone, or the disk is full.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.end_progress();
        let written = self.data.write_all(bytes);
        written
            .and_then(|()| self.data.flush())
            .map_err(|error| match error.kind() {
                ErrorKind::BrokenPipe => Failure::reader_gone(),
                _ => Failure::new(
                    Exit::Failed,
                    format!("the output cannot be written: {error}"),
                ),
            })
    }

    /// Says one line to the person, unless they asked for quiet.
    pub fn say(&mut self, line: &str) {
        if self.manner.talk != Talk::Quiet {
            self.tell(line);
        }
    }

    /// Says what must not be overlooked, even when quiet was asked for.
    pub fn warn(&mut self, line: &str) {
        self.tell(&format!("warning: {line}"));
    }

    /// Shows how far something is: on a terminal in one line that is rewritten, otherwise in a line
    /// whenever it changes.
    pub fn progress(&mut self, line: &str) {
        match self.manner.talk {
            Talk::Quiet => {},
            Talk::Lines if self.last_progress == line => {},
            Talk::Lines => self.tell(line),
            Talk::Live => {
                self.progress = true;
                // Nobody can be told that telling failed.
                let _ = write!(self.talk, "\r\u{1b}[K{}", harmless(line));
                let _ = self.talk.flush();
            },
        }
        line.clone_into(&mut self.last_progress);
    }

    /// Says why a command failed.
    pub fn fail(&mut self, failure: &Failure) {
        for line in failure.lines() {
            self.tell(&line);
        }
    }

    /// Asks for consent, which `--yes` (`yes`) gives beforehand.
    ///
    /// # Errors
    /// Consent was refused, or nobody can be asked.
    pub fn consent(&mut self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        self.end_progress();
        let Some(answers) = &mut self.answers else {
            let what = format!("{question} needs --yes where nobody can be asked");
            return Err(Failure::invalid(what));
        };
        let _ = write!(self.talk, "{}? [y/N] ", harmless(question));
        let _ = self.talk.flush();
        let mut answer = String::new();
        let read = answers.read_line(&mut answer);
        let word = answer.trim().to_ascii_lowercase();
        if read.is_ok() && (word == "y" || word == "yes") {
            return Ok(());
        }
        Err(Failure::new(Exit::Failed, "nothing was done"))
    }

    fn tell(&mut self, line: &str) {
        self.end_progress();
        let _ = writeln!(self.talk, "{}", harmless(line));
        let _ = self.talk.flush();
    }

    fn end_progress(&mut self) {
        if std::mem::take(&mut self.progress) {
            let _ = write!(self.talk, "\r\u{1b}[K");
        }
    }
}

impl Debug for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("manner", &self.manner)
            .finish_non_exhaustive()
    }
}

/// A value as YAML.
///
/// # Errors
/// YAML cannot say it; every value that came as JSON it can.
pub fn yaml(value: &Value) -> Result<String, Failure> {
    serde_yaml_ng::to_string(value)
        .map_err(|error| Failure::new(Exit::Failed, format!("YAML cannot say this: {error}")))
}

/// Help, version, and what is wrong with a command line, as clap words them.
pub fn usage(error: &clap::Error) -> Exit {
    // A reader that left needs no help.
    let _ = error.print();
    if error.use_stderr() {
        Exit::Invalid
    } else {
        Exit::Success
    }
}

fn lines(lines: &[String]) -> String {
    lines
        .iter()
        .fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Cursor, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    /// What was written, kept where a test can read it.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(crate) fn read(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    pub(crate) const fn manner(format: Format) -> Manner {
        Manner {
            format,
            headers: true,
            colour: false,
            talk: Talk::Lines,
        }
    }

    /// An output, and its two pages: data and talk. `answers` stands for a person at a terminal.
    pub(crate) fn captured(manner: Manner, answers: Option<&str>) -> (Output, Page, Page) {
        let (data, talk) = (Page::default(), Page::default());
        let answers =
            answers.map(|text| Box::new(Cursor::new(text.to_owned())) as Box<dyn BufRead + Send>);
        let output = Output::new(
            manner,
            Box::new(data.clone()),
            Box::new(talk.clone()),
            answers,
        );
        (output, data, talk)
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn data_and_talk_go_different_ways() {
        let (mut output, data, talk) = captured(manner(Format::Json), None);
        output.say("one moment");
        output.value(&json!({"a": 1})).unwrap();
        assert_eq!(data.read(), "{\n  \"a\": 1\n}\n");
        assert_eq!(talk.read(), "one moment\n");
    }

    #[test]
    fn a_reader_that_left_ends_the_command_quietly() {
        let page = Page::default();
        let mut output = Output::new(
            manner(Format::Table),
            Box::new(Gone),
            Box::new(page.clone()),
            None,
        );
        let failure = output.text("x").unwrap_err();
        output.fail(&failure);
        assert_eq!(failure.exit(), Exit::Success);
        assert_eq!(page.read(), "");
    }

    #[test]
    fn quiet_leaves_warnings_and_errors() {
        let quiet = Manner {
            talk: Talk::Quiet,
            ..manner(Format::Table)
        };
        let (mut output, _, talk) = captured(quiet, None);
        output.say("hello");
        output.progress("1 of 2");
        output.warn("the token can be read by others");
        assert_eq!(talk.read(), "warning: the token can be read by others\n");
    }

    #[test]
    fn progress_rewrites_its_line_and_leaves_no_trace() {
        let live = Manner {
            talk: Talk::Live,
            ..manner(Format::Table)
        };
        let (mut output, _, talk) = captured(live, None);
        output.progress("1 of 2");
        output.say("done");
        assert_eq!(talk.read(), "\r\u{1b}[K1 of 2\r\u{1b}[Kdone\n");
    }

    #[test]
    fn progress_without_a_terminal_is_a_line_when_it_changes() {
        let (mut output, _, talk) = captured(manner(Format::Table), None);
        for line in ["1 of 2", "1 of 2", "2 of 2"] {
            output.progress(line);
        }
        assert_eq!(talk.read(), "1 of 2\n2 of 2\n");
    }

    #[test]
    fn consent_is_asked_of_people_and_demanded_of_programs() {
        let ask = |answers: Option<&str>, yes: bool| {
            let (mut output, _, talk) = captured(manner(Format::Table), answers);
            let exit = output
                .consent("delete TargetGroup/web", yes)
                .map_err(|f| f.exit());
            (exit, talk.read())
        };
        assert_eq!(ask(None, true), (Ok(()), String::new()));
        assert_eq!(ask(None, false).0, Err(Exit::Invalid));
        let question = "delete TargetGroup/web? [y/N] ";
        assert_eq!(ask(Some("yes\n"), false), (Ok(()), question.to_owned()));
        assert_eq!(ask(Some("\n"), false).0, Err(Exit::Failed));
        assert_eq!(ask(Some(""), false).0, Err(Exit::Failed));
    }
}
