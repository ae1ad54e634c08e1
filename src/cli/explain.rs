//! Explains a wrong command line or environment in one sentence.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{ConfigError, secret_files};

/// One line that names the setting, what was expected, and the value.
pub(super) fn explain(command: &Command, error: &clap::Error) -> ConfigError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let invalid = context(ContextKind::InvalidArg).map(|arg| arg.split(' ').next().unwrap_or(arg));
    let names = invalid.map(|flag| names(command, flag));
    match (error.kind(), names) {
        (
            ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::InvalidUtf8,
            Some(Names {
                flag,
                variable,
                is_secret,
            }),
        ) => {
            let given = context(ContextKind::InvalidValue).unwrap_or_default();
            // A secret stays out of the log; a URL may hold a password.
            let got = match is_secret {
                true => String::new(),
                false => format!(", got {given:?}"),
            };
            let right = std::error::Error::source(error).map(ToString::to_string);
            let right = right.or_else(|| match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) if !given.is_empty() => Some(choice(valid)),
                _ => None,
            });
            ConfigError(match right {
                Some(right) => format!("{variable} ({flag}) is not valid: expected {right}{got}"),
                None => format!("{flag} has no value; --help shows what to give"),
            })
        }
        (ErrorKind::MissingRequiredArgument, Some(missing)) => {
            let Names { flag, variable, .. } = missing;
            let needing = needing(command, &variable);
            ConfigError(format!(
                "{needing} needs {variable} ({flag}): set that too, or unset this"
            ))
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            let meant = context(ContextKind::SuggestedArg)
                .or_else(|| context(ContextKind::SuggestedSubcommand));
            ConfigError(match meant {
                Some(meant) => format!("{first}; did you mean {meant}?"),
                None => format!("{first}; --help shows what can be set"),
            })
        }
    }
}

/// `a, b or c`.
fn choice(values: &[String]) -> String {
    match values {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => values.concat(),
    }
}

/// The setting that needs this one, as its help says. (clap does not tell.)
fn needing(command: &Command, variable: &str) -> String {
    let needs = format!("needs {variable}");
    let says_so = |arg: &&Arg| {
        let help = arg.get_help().map(ToString::to_string);
        help.is_some_and(|help| help.contains(&needs))
    };
    let arg = command.get_arguments().find(says_so);
    let found = arg
        .and_then(Arg::get_long)
        .map(|long| names(command, &format!("--{long}")));
    found.map_or_else(
        || "another setting".to_owned(),
        |Names { flag, variable, .. }| format!("{variable} ({flag})"),
    )
}

/// The names of a setting.
struct Names {
    flag: String,
    variable: String,
    is_secret: bool,
}

fn names(command: &Command, flag: &str) -> Names {
    let mut args = command.get_arguments();
    let arg = args.find(|arg| flag.strip_prefix("--") == arg.get_long());
    let variable = arg.and_then(Arg::get_env).map(OsStr::to_string_lossy);
    Names {
        flag: flag.to_owned(),
        variable: variable.unwrap_or_default().into_owned(),
        is_secret: arg.is_some_and(Arg::is_hide_env_values_set),
    }
}

/// clap does not say which variable is not UTF-8.
pub(super) fn unreadable(arg: &Arg) -> Option<ConfigError> {
    let variable = arg.get_env()?;
    let value = std::env::var_os(variable)?;
    value.to_str().is_none().then(|| {
        let variable = variable.to_string_lossy();
        ConfigError(match arg.is_hide_env_values_set() {
            true => format!("{variable} is not valid UTF-8"),
            false => format!("{variable} is not valid UTF-8: {value:?}"),
        })
    })
}

/// A variable that looks like a setting of this server and is not: probably misspelt.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its name.
    pub variable: String,
    /// The setting whose name is most like it, if one is.
    pub nearest: Option<String>,
}

/// At most every third letter is wrong in a name that is only misspelt.
const LIKENESS: f64 = 0.66;

/// The variables that look like settings of this server and are not.
pub(super) fn unknown(command: &Command, names: impl Iterator<Item = OsString>) -> Vec<Unknown> {
    let variables = command.get_arguments().filter_map(Arg::get_env);
    let settings: Vec<&str> = variables.filter_map(OsStr::to_str).collect();
    let is_known = |name: &str| settings.contains(&name) || secret_files::is_known(command, name);
    let names = names.filter_map(|name| name.into_string().ok());
    let mut unknown: Vec<String> = names
        .filter(|name| name.starts_with("WEBRTC_") && !is_known(name))
        .collect();
    unknown.sort();
    // What all begin with says nothing; PORT is a setting, WEBRTC_PORT is none.
    let own = |name: &str| name.strip_prefix("WEBRTC_").unwrap_or(name).to_owned();
    let like = |name: &str, setting: &str| {
        strsim::normalized_damerau_levenshtein(&own(name), &own(setting))
    };
    let nearest = |name: &str| {
        let likest = settings.iter().copied();
        let likest = likest.max_by(|a, b| like(name, a).total_cmp(&like(name, b)))?;
        (like(name, likest) >= LIKENESS).then(|| likest.to_owned())
    };
    let unknown = unknown.into_iter().map(|variable| Unknown {
        nearest: nearest(&variable),
        variable,
    });
    unknown.collect()
}
