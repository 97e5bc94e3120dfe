//! The conformance suites: the properties that every scheme, chain and journal must have.
//!
//! A fixture prepares an environment, and a macro makes one test for each property:
//!
//! ```text
//! quittance_testing::chain_conformance!(MyChainFixture);
//! ```
//!
//! A failing test prints the engine's warnings. `RUST_LOG=debug` prints more.

pub mod chain;
pub mod ends;
mod entries;
pub mod journal;
pub mod life;
pub mod replicas;
pub mod scheme;

use std::pin::Pin;

use tracing_subscriber::EnvFilter;

/// One property of a suite, for programs that run a suite by themselves.
pub struct Property {
    /// The name of the property's function.
    pub name: &'static str,
    /// Runs it. It panics when the property does not hold.
    pub run: fn() -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Prints what the engine and the chains log, as a part of the output of the test that fails.
pub fn init_tracing() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer();
    // Another test of the same process may have done it already.
    let _ = subscriber.try_init();
}

/// Makes a test of each named property of a suite.
#[macro_export]
macro_rules! conformance_tests {
    ($suite:ident, $Fixture:ty: $($property:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $property() {
                $crate::conformance::init_tracing();
                $crate::conformance::$suite::$property::<$Fixture>().await;
            }
        )*
    };
}

/// Defines a suite's macro, and `properties`, from one list of its properties.
macro_rules! suite {
    ($dollar:tt $suite:ident, $conformance:ident, $Fixture:ident: $($property:ident)*) => {
        /// Makes one test for each property.
        #[macro_export]
        macro_rules! $conformance {
            ($dollar Fixture:ty) => {
                $crate::conformance_tests!($suite, $dollar Fixture: $($property)*);
            };
        }

        /// All properties, in the order of the suite.
        pub fn properties<F: $Fixture + 'static>() -> Vec<$crate::conformance::Property> {
            vec![$($crate::conformance::Property {
                name: stringify!($property),
                run: || Box::pin($property::<F>()),
            }),*]
        }
    };
}
use suite;
