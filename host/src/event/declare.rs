//! From a manifest to a [`Schema`]: the one place of the event model that knows manifests.

use ecapture_plugin_api::manifest::Manifest;

use super::schema::{Column, Schema, SchemaError};

impl TryFrom<&Manifest> for Schema {
    type Error = SchemaError;

    /// The events that `manifest` declares. Its checks and ours overlap; ours are those that the sinks rely on.
    fn try_from(manifest: &Manifest) -> Result<Self, SchemaError> {
        let mut schema = Self::new(&manifest.module.name)?;
        for event in &manifest.events {
            let columns: Result<_, _> = event.columns.iter().map(|c| Column::new(&c.name, c.kind)).collect();
            let text = event.text.as_ref().map(ToString::to_string).unwrap_or_default();
            schema.push(&event.name, &text, columns?)?;
        }
        Ok(schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ColumnType;

    const MANIFEST: &str = r#"
schema = 1
[module]
name = "shell"
version = "0.1.0"
title = "Commands"
license = "Apache-2.0"
api = "1.0"
[[target]]
kind = "executable"
names = ["bash"]
[[bpf]]
id = "shell"
[[stream]]
name = "lines"
[[event]]
name = "command"
text = "{ecapture.command.text}[  {ecapture.duration_ns}]"
column = [
  { name = "ecapture.command.text", type = "text", help = "the line" },
  { name = "ecapture.duration_ns", type = "duration", help = "time taken, ns" },
]
[[event]]
name = "exit"
"#;

    #[test]
    fn a_manifest_becomes_a_schema() {
        let schema = Schema::try_from(&Manifest::parse(MANIFEST).unwrap()).unwrap();
        assert_eq!(&**schema.module(), "shell");
        let command = schema.event(0).unwrap();
        assert_eq!(command.name(), "shell.command");
        assert_eq!(
            command.columns().iter().map(Column::ty).collect::<Vec<_>>(),
            [ColumnType::Text, ColumnType::Duration]
        );
        assert_eq!(command.text().parts().len(), 2);
        assert_eq!(schema.event(1).unwrap().text().parts(), []);
        assert!(schema.event(2).is_none());
    }
}
