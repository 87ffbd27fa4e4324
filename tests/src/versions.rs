//! Versions of the module interface that do not exist yet, as changes to the one that does. They do what the compatibility
//! promise allows (docs/decisions/003-abi.md): a minor version appends, a major one may do anything.

use crate::variants::Change;

/// One more trailing field in both tables of functions, one more method with a default, one more key in the manifest.
pub const NEXT_MINOR: &[Change] = &[
    Change { file: "plugin-api/Cargo.toml", from: "version = \"1.0.0\"", to: "version = \"1.1.0\"" },
    Change {
        file: "Cargo.toml",
        from: "path = \"plugin-api\", version = \"1.0.0\"",
        to: "path = \"plugin-api\", version = \"1.1.0\"",
    },
    Change {
        file: "plugin-api/src/abi/root.rs",
        from: "RResult<DecoderBox, ModuleError>,\n}",
        to: "RResult<DecoderBox, ModuleError>,\n\n    /// Says what it is.\n    pub describe: extern \"C\" fn() -> RStr<'static>,\n}",
    },
    Change {
        file: "plugin-api/src/abi/root.rs",
        from: "text: RStr<'_>),\n}",
        to: "text: RStr<'_>),\n\n    /// Says the time.\n    pub clock: extern \"C\" fn() -> u64,\n}",
    },
    Change {
        file: "plugin-api/src/abi/traits.rs",
        from: "fn finish(&mut self, sink: &mut EventSink_TO<'_, RMut<'_, ()>>) -> RResult<(), ModuleError>;",
        to: "fn finish(&mut self, sink: &mut EventSink_TO<'_, RMut<'_, ()>>) -> RResult<(), ModuleError>;\n\n    /// Rests.\n    fn pause(&mut self) -> u32 {\n        0\n    }",
    },
    Change {
        file: "plugin-api/src/manifest/parse.rs",
        from: "\"api\", \"features\"]",
        to: "\"api\", \"features\", \"homepage\"]",
    },
    Change {
        file: "plugin-api/src/sdk/glue.rs",
        from: "new_decoder: new_decoder::<B::Module>,",
        to: "new_decoder: new_decoder::<B::Module>,\n        describe: manifest::<B>,",
    },
    // A newer module asks for what an older host does not have.
    Change {
        file: "plugin-api/src/sdk/glue.rs",
        from: "install_hook(api);",
        to: "install_hook(api);\n        let _ = api.clock().map(|clock| clock());",
    },
];

/// What a host of the next minor version does beside: it offers more, and asks for what an older module does not have.
pub const NEXT_MINOR_HOST: &[Change] = &[
    Change {
        file: "host/src/worker/load.rs",
        from: "HostApiV1 { log }.leak_into_prefix()",
        to: "HostApiV1 { log, clock }.leak_into_prefix()",
    },
    Change {
        file: "host/src/worker/load.rs",
        from: "extern \"C\" fn log(",
        to: "extern \"C\" fn clock() -> u64 {\n    7\n}\n\nextern \"C\" fn log(",
    },
    Change {
        file: "plugin-api/src/sdk/testing/built.rs",
        from: "HostApiV1 { log }.leak_into_prefix()",
        to: "HostApiV1 { log, clock }.leak_into_prefix()",
    },
    Change {
        file: "plugin-api/src/sdk/testing/built.rs",
        from: "extern \"C\" fn log(",
        to: "extern \"C\" fn clock() -> u64 {\n    7\n}\n\nextern \"C\" fn log(",
    },
    Change {
        file: "host/src/worker/load.rs",
        from: "let own = api.manifest()();",
        to: "let _ = api.describe().map(|describe| describe());\n    let own = api.manifest()();",
    },
];

/// Another layout, and a method less.
pub const NEXT_MAJOR: &[Change] = &[
    Change { file: "plugin-api/Cargo.toml", from: "version = \"1.0.0\"", to: "version = \"2.0.0\"" },
    Change {
        file: "Cargo.toml",
        from: "path = \"plugin-api\", version = \"1.0.0\"",
        to: "path = \"plugin-api\", version = \"2.0.0\"",
    },
    Change {
        file: "plugin-api/src/abi/root.rs",
        from: "pub manifest: extern \"C\" fn() -> RStr<'static>,",
        to: "pub flavour: u64,\n    /// As before.\n    pub manifest: extern \"C\" fn() -> RStr<'static>,",
    },
    Change {
        file: "plugin-api/src/sdk/glue.rs",
        from: "manifest: manifest::<B>,",
        to: "flavour: 7,\n        manifest: manifest::<B>,",
    },
];
