//! Payers take turns in a lane, so that one payer with many payments does not delay the others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Waiting items, each of one payer. Payers take turns. The items of one payer keep their order.
pub(crate) struct Turns<T> {
    /// The payers in the order of their turns. Each has a waiting item.
    order: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<T>>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            waiting: HashMap::new(),
        }
    }
}

impl<T> Turns<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds an item behind those of the same payer.
    pub(crate) fn push(&mut self, payer: &Arc<str>, item: T) {
        let items = self.waiting.entry(Arc::clone(payer)).or_default();
        if items.is_empty() {
            self.order.push_back(Arc::clone(payer));
        }
        items.push_back(item);
    }

    /// Takes all items, payer by payer.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        let order = std::mem::take(&mut self.order);
        let items = order.iter().filter_map(|payer| self.waiting.remove(payer));
        items.flatten().collect()
    }

    /// Takes the first payer's first item and all items that fit into its batch, one of each payer
    /// in each round. Examines at most `looks_max` items. `fits` says whether an item can join a
    /// batch. An item that does not fit into a batch must not fit into a larger one.
    pub(crate) fn next_batch(
        &mut self,
        looks_max: usize,
        fits: impl Fn(&[T], &T) -> bool,
    ) -> Vec<T> {
        let Some(first) = self.take(0, 0) else {
            return Vec::new();
        };
        let mut batch = vec![first];
        // The payers before this turn have no further item that fits. Payers that gave an item have
        // moved behind all others.
        let (mut turn, mut looks) = (0, 0);
        while let Some(payer) = self.order.get(turn)
            && looks < looks_max
        {
            let items = self.waiting.get(payer).into_iter().flatten();
            let items = items.take(looks_max - looks);
            let found = items.clone().position(|item| fits(&batch, item));
            looks += found.map_or(items.count(), |at| at + 1);
            match found.and_then(|at| self.take(turn, at)) {
                Some(item) => batch.push(item),
                None => turn += 1,
            }
        }
        batch
    }

    /// Takes one item of the payer with this turn. The payer moves to the end of the order.
    fn take(&mut self, turn: usize, at: usize) -> Option<T> {
        let payer = self.order.remove(turn)?;
        let items = self.waiting.get_mut(&payer)?;
        let item = items.remove(at);
        match items.is_empty() {
            true => drop(self.waiting.remove(&payer)),
            false => self.order.push_back(payer),
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Items are (payer, number); the numbers rise.
    fn turns(payers: &[u8]) -> Turns<(u8, usize)> {
        let mut turns = Turns::default();
        for (number, payer) in payers.iter().enumerate() {
            turns.push(&payer.to_string().into(), (*payer, number));
        }
        turns
    }

    #[test]
    fn a_payer_with_one_item_overtakes_one_with_a_thousand() {
        let mut payers = vec![0; 1000];
        payers.extend([1, 2]);
        let mut alone = turns(&payers);
        let order: Vec<u8> = (0..4)
            .map(|_| alone.next_batch(256, |_, _| false)[0].0)
            .collect();
        assert_eq!(order, [0, 1, 2, 0]);
        let batch = turns(&payers).next_batch(256, |batch, _| batch.len() < 8);
        let of: Vec<u8> = batch.iter().map(|(payer, _)| *payer).collect();
        assert_eq!(of, [0, 1, 2, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn each_item_is_taken_once_in_the_order_of_its_payer(
            payers in prop::collection::vec(0_u8..6, 0..200), most in 1_usize..12, looks in 1_usize..40,
        ) {
            let mut turns = turns(&payers);
            let mut taken = Vec::new();
            while !turns.is_empty() {
                let batch = turns.next_batch(looks, |batch, _| batch.len() < most);
                prop_assert!(!batch.is_empty() && batch.len() <= most);
                taken.extend(batch);
            }
            for payer in 0..6 {
                let own: Vec<usize> = taken.iter().filter(|item| item.0 == payer).map(|item| item.1).collect();
                let given: Vec<usize> = (0..payers.len()).filter(|at| payers[*at] == payer).collect();
                prop_assert_eq!(own, given);
            }
        }

        /// A payer has its turn within as many batches as there are payers.
        #[test]
        fn no_payer_waits_longer_than_a_round(payers in prop::collection::vec(0_u8..6, 1..200), looks in 1_usize..40) {
            let mut turns = turns(&payers);
            let count = turns.order.len();
            let mut waited: HashMap<u8, usize> = HashMap::new();
            while !turns.is_empty() {
                let batch = turns.next_batch(looks, |batch, (payer, _)| batch.len() < 3 && payer % 2 == 0);
                for (payer, waited) in &mut waited {
                    *waited += 1;
                    let has_more = turns.waiting.contains_key(payer.to_string().as_str());
                    prop_assert!(!has_more || *waited <= count, "{payer} waited for {waited} batches");
                }
                for (payer, _) in batch {
                    waited.insert(payer, 0);
                }
            }
        }

        #[test]
        fn take_all_returns_every_item(payers in prop::collection::vec(0_u8..6, 0..50)) {
            let mut turns = turns(&payers);
            prop_assert_eq!(turns.take_all().len(), payers.len());
            prop_assert!(turns.is_empty() && turns.next_batch(9, |_, _| true).is_empty());
        }
    }
}
