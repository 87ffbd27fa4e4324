//! The module of a recording, for the module of today: its number, and the options that it ran with.
//!
//! A later version of the module may have other options. What it no longer has, or no longer allows, is left out and said; what
//! it has and did not have then gets its default, as a user gets it who does not name it.

use std::collections::BTreeMap;

use ecapture_plugin_api::manifest::Manifest;
use ecapture_plugin_api::plan::Config;

use super::{Header, RecordedModule};

/// The module's number in the recording, and what is kept of it.
///
/// # Errors
/// The modules that it is of.
pub fn number<'a>(header: &'a Header, name: &str) -> Result<(u8, &'a RecordedModule), String> {
    (0..=u8::MAX).zip(&header.modules).find(|(_, m)| m.name == name).ok_or_else(|| {
        let names: Vec<&str> = header.modules.iter().map(|m| m.name.as_str()).collect();
        format!("it is of module {}, not of {name}", names.join(", "))
    })
}

/// What the module ran with, and a line for each option that could not be kept.
///
/// # Errors
/// It is no configuration, or of a mode that the module does not have.
pub fn config(manifest: &Manifest, then: &RecordedModule) -> Result<(Config, Vec<String>), String> {
    let config: Config =
        serde_json::from_value(then.config.clone()).map_err(|e| format!("its configuration is not understood: {e}"))?;
    if manifest.mode(&config.mode).is_none() {
        return Err(format!("it was made in mode {}, which {} does not have", config.mode, manifest.module.name));
    }
    let (mut options, mut dropped) = (manifest.check_config(&BTreeMap::new()).map_err(|e| e.to_string())?, Vec::new());
    for (name, value) in config.options {
        let why = match manifest.option(&name) {
            None => "no such option any more".to_owned(),
            Some(option) => match option.fits(&value) {
                Ok(()) => {
                    options.insert(name, value);
                    continue;
                }
                Err(why) => why,
            },
        };
        dropped.push(format!("--{name} of the recording is left out: {why}"));
    }
    Ok((Config::new(config.mode, options), dropped))
}

#[cfg(test)]
mod tests {
    use ecapture_plugin_api::plan::Value;
    use serde_json::json;

    use super::*;

    fn manifest() -> Manifest {
        Manifest::parse(include_str!("../../../tests/fixtures/evil/module.toml")).unwrap()
    }

    fn then(config: serde_json::Value) -> RecordedModule {
        RecordedModule { name: "evil".into(), config, ..RecordedModule::default() }
    }

    #[test]
    fn options_of_then_are_kept_and_new_ones_have_their_default() {
        let (config, dropped) =
            config(&manifest(), &then(json!({"schema": 1, "mode": "text", "options": {"target": "/bin/x"}}))).unwrap();
        assert_eq!(config.options.get("target"), Some(&Value::Text("/bin/x".into())));
        assert_eq!(config.options.get("behaviour"), Some(&Value::Text("good".into())));
        assert_eq!(dropped, [""; 0]);
    }

    #[test]
    fn options_that_are_no_more_are_left_out_and_said() {
        let options = json!({"gone": 1, "behaviour": 7, "target": "relative"});
        let (config, dropped) =
            config(&manifest(), &then(json!({"schema": 1, "mode": "text", "options": options}))).unwrap();
        assert_eq!(config.options.get("behaviour"), Some(&Value::Text("good".into())));
        assert!(!config.options.contains_key("gone") && !config.options.contains_key("target"));
        assert_eq!(dropped.len(), 3, "{dropped:?}");
    }

    #[test]
    fn what_is_no_configuration_is_an_error() {
        for (bad, word) in [
            (json!(null), "not understood"),
            (json!({"schema": 1, "mode": "keylog", "options": {}}), "mode keylog"),
            (json!({"schema": 1, "mode": "text", "options": {"a": {}}}), "not understood"),
        ] {
            let why = config(&manifest(), &then(bad)).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn a_module_has_its_own_number() {
        let modules = ["bash", "mysql"].map(|name| RecordedModule { name: name.into(), ..RecordedModule::default() });
        let header = Header { modules: modules.into(), ..Header::default() };
        assert_eq!(number(&header, "mysql").unwrap().0, 1);
        assert_eq!(number(&header, "evil").unwrap_err(), "it is of module bash, mysql, not of evil");
    }
}
