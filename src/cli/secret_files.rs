//! Secrets in files: `NAME_FILE` names the file with the value of `NAME`, as Docker and
//! Kubernetes hand over secrets.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use super::ConfigError;

/// What is put behind the name of a setting.
const FILE: &str = "_FILE";

/// Whether this variable names the file of a setting.
pub(super) fn is_known(command: &Command, variable: &str) -> bool {
    let setting = variable.strip_suffix(FILE);
    setting.is_some_and(|setting| {
        let mut secrets = secrets(command);
        secrets.any(|(_, name)| name == setting)
    })
}

/// The settings that can be in a file, with their variables: all that may be secrets, URLs with
/// passwords among them.
fn secrets(command: &Command) -> impl Iterator<Item = (&Arg, &str)> {
    let secrets = command.get_arguments();
    let secrets = secrets.filter(|arg| arg.is_hide_env_values_set());
    secrets.filter_map(|arg| Some((arg, arg.get_env()?.to_str()?)))
}

/// What the files say, as arguments. `variable` finds a variable that is not empty.
pub(super) fn read(
    command: &Command,
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<OsString>, ConfigError> {
    let mut arguments = Vec::new();
    for (arg, name) in secrets(command) {
        let of_file = format!("{name}{FILE}");
        let Some(file) = variable(of_file.as_ref()) else {
            continue;
        };
        if variable(name.as_ref()).is_some() {
            return Err(ConfigError(format!(
                "{name} and {of_file} are both set: unset one of them"
            )));
        }
        let text = std::fs::read_to_string(&file)
            .map_err(|why| ConfigError(format!("{of_file} ({file:?}) cannot be read: {why}")))?;
        let flag = arg.get_long().unwrap_or_default();
        arguments.push(format!("--{flag}={}", text.trim_end_matches(['\r', '\n'])).into());
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs};

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Settings;

    fn read_of(set: &[(&str, &str)]) -> Result<Vec<OsString>, String> {
        let set: HashMap<&str, &str> = set.iter().copied().collect();
        let variable = |name: &OsStr| Some(set.get(name.to_str()?)?.into());
        read(&Settings::command(), variable).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_can_be_in_a_file_without_the_line_end_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "-a secret-\n").unwrap();
        let file = file.to_str().unwrap();
        for (variable, flag) in [
            ("TOKEN", "--token=-a secret-"),
            ("WEBRTC_ADMIN_TOKEN", "--admin-token=-a secret-"),
            ("WEBRTC_REDIS_URL", "--redis-url=-a secret-"),
        ] {
            let read = read_of(&[(&format!("{variable}_FILE"), file)]);
            assert_eq!(read, Ok(vec![flag.into()]));
        }
        // Not secrets: what is in that file would be no port.
        assert_eq!(read_of(&[("PORT_FILE", file)]), Ok(vec![]));
    }

    #[test]
    fn a_file_that_cannot_be_read_or_is_one_too_many_is_explained() {
        assert_eq!(
            read_of(&[("TOKEN_FILE", "/no/such/file")]).unwrap_err(),
            "TOKEN_FILE (\"/no/such/file\") cannot be read: No such file or directory (os error 2)"
        );
        assert_eq!(
            read_of(&[("TOKEN_FILE", "/no/such/file"), ("TOKEN", "x")]).unwrap_err(),
            "TOKEN and TOKEN_FILE are both set: unset one of them"
        );
    }
}
