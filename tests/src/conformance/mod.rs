//! What every scheme, every chain and every journal must hold, whatever it is made of. A fixture says how to set the
//! stage; the properties are the same for all.
//!
//! A suite is mounted by its macro, which makes one test of each property:
//!
//! ```text
//! quittance_tests::chain_conformance!(MyChainFixture);
//! ```

pub mod chain;
pub mod scheme;

pub use quittance_testing::conformance::journal;

/// Makes a test of each named property of a suite.
#[macro_export]
macro_rules! conformance_tests {
    ($suite:ident, $Fixture:ty: $($property:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $property() {
                $crate::conformance::$suite::$property::<$Fixture>().await;
            }
        )*
    };
}
