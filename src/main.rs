//! `rakit`: the operator's program. All of it is in [`operator`]; the cluster's programs themselves are in the library.

mod operator;

fn main() -> std::process::ExitCode {
    rakit::program::end(operator::main(std::env::args_os()))
}
