//! The doctor's findings, and how they are printed.

use serde::Serialize;
use serde_json::json;

use crate::config::Output;
use crate::model::exports::DEFAULT_NAME;
use crate::values::text::printable;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong.
    Ok,
    /// The provisioner works, but not as well as it could, or not for long.
    Warning,
    /// The provisioner cannot do its work, or only part of it.
    Failure,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The finding's severity.
    pub level: Level,
    /// The name of the export, if the check is of one.
    pub export: Option<Box<str>>,
    /// The name of the check.
    pub check: &'static str,
    /// The state that was found.
    pub message: String,
    /// The remedy; `None` if all is well.
    pub fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, export: None, check, message: message.into(), fix: None }
    }

    pub(super) fn warning(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, export: None, check, message: message.into(), fix: Some(fix.into()) }
    }

    pub(super) fn failure(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Failure, export: None, check, message: message.into(), fix: Some(fix.into()) }
    }
}

/// The results of all checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The findings, in the order in which they are best read.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Tells whether anything keeps the provisioner from its work.
    #[must_use]
    pub fn has_failure(&self) -> bool {
        self.worst() == Level::Failure
    }

    /// Returns the whole report as text that ends with a line feed.
    #[must_use]
    pub fn print(&self, output: Output) -> String {
        match output {
            Output::Text => self.findings.iter().map(line).collect(),
            Output::Json => format!("{:#}\n", json!({ "result": self.worst(), "checks": self.findings })),
        }
    }

    fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

fn line(Finding { level, export, check, message, fix }: &Finding) -> String {
    // The default export goes without saying: most provisioners serve no other.
    let export = export.as_deref().filter(|name| *name != DEFAULT_NAME);
    let export = export.map(|name| format!("{name}/")).unwrap_or_default();
    let mut line = format!("{:<8} {export}{check}: {message}", level.as_str());
    if let Some(fix) = fix {
        line.push_str(if line.ends_with('.') { " " } else { ". " });
        line.push_str(fix);
    }
    // Names and messages may contain foreign text.
    printable(&line) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_and_the_worst_is_the_result() {
        let mut report = Report { findings: vec![Finding::ok("a", "is well")] };
        assert!(!report.has_failure());
        report.findings.push(Finding::warning("b", "is\nso \u{1b}[1mso", "Do this."));
        assert!(!report.has_failure());
        report
            .findings
            .push(Finding { export: Some("fast".into()), ..Finding::failure("c", "has ended.", "Do that.") });
        assert!(report.has_failure());
        let text = report.print(Output::Text);
        let expected = [
            "ok       a: is well",
            "warning  b: is\u{fffd}so \u{fffd}[1mso. Do this.",
            "failure  fast/c: has ended. Do that.",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        let json: serde_json::Value = serde_json::from_str(&report.print(Output::Json)).unwrap();
        assert_eq!(json["result"], "failure");
        assert_eq!(
            json["checks"][0],
            json!({"level": "ok", "export": null, "check": "a", "message": "is well", "fix": null})
        );
        assert_eq!(json["checks"][1]["message"], "is\nso \u{1b}[1mso");
    }
}
