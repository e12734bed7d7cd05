//! The flags of the library that upstream logs with, which Deployments of old have.

use std::ffi::OsString;

/// Those that stand alone or have `=true` or `=false`, as Go's flags of type bool do.
const SWITCHES: [&str; 6] =
    ["logtostderr", "alsologtostderr", "add_dir_header", "skip_headers", "skip_log_headers", "one_output"];

/// Those that have a value: after `=`, or, if that looks like one, as the next argument.
const VALUES: [&str; 7] =
    ["v", "vmodule", "stderrthreshold", "log_dir", "log_file", "log_file_max_size", "log_backtrace_at"];

/// Returns the arguments of a program without the flags of [glog](https://pkg.go.dev/github.com/golang/glog) and klog,
/// and these, without their values. Like all flags in Go they begin with one `-` or two.
#[must_use]
pub fn without_glog(arguments: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<String>) {
    let mut arguments = arguments.into_iter().peekable();
    let (mut kept, mut ignored) = (Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        let flag = argument.to_str().and_then(|text| {
            let text = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
            let (name, has_value) = text.split_once('=').map_or((text, false), |(name, _)| (name, true));
            let takes_one = VALUES.contains(&name);
            (takes_one || SWITCHES.contains(&name)).then(|| (name.to_owned(), takes_one && !has_value))
        });
        let Some((name, takes_next)) = flag else {
            kept.push(argument);
            continue;
        };
        if takes_next {
            arguments.next_if(|next| next.to_str().is_some_and(|next| may_be_value(&name, next)));
        }
        ignored.push(format!("-{name}"));
    }
    (kept, ignored)
}

/// Tells whether a text can be the value of a flag. A command of ours never is.
fn may_be_value(name: &str, text: &str) -> bool {
    let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    match name {
        "v" | "log_file_max_size" => is_number,
        "stderrthreshold" => {
            is_number || ["info", "warning", "error", "fatal"].contains(&&*text.to_ascii_lowercase())
        }
        "vmodule" => text.contains('='),
        "log_backtrace_at" => text.contains(':'),
        _ => text.contains('/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(arguments: &str) -> (String, String) {
        let (kept, ignored) = without_glog(arguments.split(' ').map(OsString::from));
        let kept: Vec<_> = kept.iter().map(|kept| kept.to_str().unwrap()).collect();
        (kept.join(" "), ignored.join(" "))
    }

    #[test]
    fn flags_of_glog_are_left_out_with_their_values_and_all_else_stays() {
        let rows = [
            ("-v=5 -logtostderr", "", "-v -logtostderr"),
            ("--v=5 --logtostderr=true --nfs-server nas", "--nfs-server nas", "-v -logtostderr"),
            ("-v 5 doctor -o json", "doctor -o json", "-v"),
            ("-stderrthreshold=INFO -vmodule a=2 x", "x", "-stderrthreshold -vmodule"),
            ("-version --version -vv -V v -", "-version --version -vv -V v -", ""),
            ("--nfs-path /v", "--nfs-path /v", ""),
            ("-v", "", "-v"),
            ("-v doctor", "doctor", "-v"),
            ("-v remove-finalizers", "remove-finalizers", "-v"),
            (
                "-stderrthreshold Error -log_dir /tmp -vmodule doctor",
                "doctor",
                "-stderrthreshold -log_dir -vmodule",
            ),
        ];
        for (arguments, kept, ignored) in rows {
            assert_eq!(stripped(arguments), (kept.to_owned(), ignored.to_owned()), "{arguments}");
        }
    }
}
