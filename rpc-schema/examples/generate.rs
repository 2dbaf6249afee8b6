//! The code generator behind `ci/bindings`: reads the schema compiler's request on standard input
//! and writes the Rust bindings into the folder named by the only argument.
//!
//! It is an example of this crate so that the generator's version comes from `Cargo.lock`, like
//! that of the `capnp` crate which the bindings must match.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: capnp compile -o- SCHEMA... | generate FOLDER");
        return ExitCode::from(2);
    };
    let outcome = capnpc::codegen::CodeGenerationCommand::new()
        .output_directory(folder)
        .default_parent_module(vec!["generated".into()])
        .run(std::io::stdin().lock());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generate: {error}");
            ExitCode::FAILURE
        }
    }
}
