//! The open connections: their number for each address, and which one makes room for a new one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::client_address::ClientAddress;

/// The number of spare connections beyond the limit, for when all others have a request in
/// progress. Each is for one short answer, so these are enough for a supervisor.
const SPARE: usize = 64;

/// The number of connections of an IPv6 /48 as a multiple of that of a /64. Providers give one
/// subscriber up to a /48, which contains 65,536 times a /64.
const SITE_SHARE: usize = 2;

/// The requests of a connection.
#[derive(Clone)]
pub(crate) struct Requests(Arc<watch::Sender<Count>>);

#[derive(Clone, Copy)]
struct Count {
    in_progress: usize,
    ever: usize,
    /// When a request last started or ended.
    changed: Instant,
}

/// A request in progress. It ends when this is dropped.
pub(crate) struct InProgress(Requests);

impl Requests {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Count {
            in_progress: 0,
            ever: 0,
            changed: Instant::now(),
        })))
    }

    pub(crate) fn begin(&self) -> InProgress {
        self.0.send_modify(|count| {
            count.in_progress += 1;
            count.ever += 1;
            count.changed = Instant::now();
        });
        InProgress(self.clone())
    }

    /// Completes when the connection sent no first request in time (`silent`) or was idle for too
    /// long (`idle`).
    pub(crate) async fn idle_for_too_long(
        &self,
        first_within: Duration,
        idle_max: Duration,
    ) -> &'static str {
        if timeout(first_within, self.first()).await.is_err() {
            return "silent";
        }
        self.ended_for(idle_max).await;
        "idle"
    }

    async fn first(&self) {
        let mut seen = self.0.subscribe();
        let _ = seen.wait_for(|count| count.ever > 0).await;
    }

    /// Completes when no request has been in progress for this long.
    pub(crate) async fn ended_for(&self, long: Duration) {
        let mut seen = self.0.subscribe();
        loop {
            let idle = seen.wait_for(|count| count.in_progress == 0).await;
            let Ok(ever) = idle.map(|count| count.ever) else {
                return;
            };
            let begun = seen.wait_for(|count| count.ever != ever);
            if timeout(long, begun).await.is_err() {
                return;
            }
        }
    }

    /// Since when no request is in progress; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        let count = self.0.borrow();
        (count.in_progress == 0).then_some(count.changed)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| {
            count.in_progress -= 1;
            count.changed = Instant::now();
        });
    }
}

/// The open connections.
#[derive(Clone)]
pub(crate) struct Connections {
    max: usize,
    max_per_address: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// The number of connections that are neither spare nor about to close.
    staying: usize,
    connections: HashMap<u64, Entry>,
    /// Has no more entries than there are connections.
    addresses: HashMap<ClientAddress, usize>,
    sites: HashMap<ClientAddress, usize>,
}

struct Entry {
    address: ClientAddress,
    requests: Requests,
    leave: Arc<Notify>,
    /// The connection was asked to close, and no longer counts.
    is_leaving: bool,
    is_spare: bool,
}

/// The slot of an open connection. It becomes free when this is dropped.
pub(crate) struct Slot {
    connections: Connections,
    id: u64,
    pub(crate) requests: Requests,
    /// Notified when the connection has to make room.
    pub(crate) leave: Arc<Notify>,
    /// All other connections are busy, and this one is for one short answer.
    pub(crate) is_spare: bool,
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSlot {
    /// The address has too many connections.
    Address,
    /// There are too many connections, and none can be closed.
    Full,
}

impl NoSlot {
    /// The label in the metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Full => "full",
        }
    }
}

impl Connections {
    pub(crate) fn new(max: usize, max_per_address: usize) -> Self {
        Self {
            max,
            max_per_address,
            open: Arc::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a new connection. If all are taken, an idle connection makes room.
    pub(crate) fn enter(&self, address: SocketAddr) -> Result<Slot, NoSlot> {
        let address = ClientAddress::new(address.ip());
        let mut open = self.open();
        // If one address can have all connections, as a proxy must, its new ones only make room.
        if self.max_per_address < self.max && open.has_too_many(address, self.max_per_address) {
            return Err(NoSlot::Address);
        }
        if open.connections.len() >= self.max.saturating_add(SPARE) {
            // The others were asked to close already.
            open.shed(|entry| entry.is_spare);
            return Err(NoSlot::Full);
        }
        let is_full = open.staying >= self.max;
        let is_spare = is_full && !open.shed(|entry| !entry.is_spare);
        Ok(self.admit(&mut open, address, is_spare))
    }

    fn admit(&self, open: &mut Open, address: ClientAddress, is_spare: bool) -> Slot {
        let (id, requests, leave) = (open.next, Requests::new(), Arc::new(Notify::new()));
        open.next += 1;
        open.staying += usize::from(!is_spare);
        *open.addresses.entry(address).or_default() += 1;
        if let Some(site) = address.site() {
            *open.sites.entry(site).or_default() += 1;
        }
        let entry = Entry {
            address,
            requests: requests.clone(),
            leave: Arc::clone(&leave),
            is_leaving: false,
            is_spare,
        };
        open.connections.insert(id, entry);
        Slot {
            connections: self.clone(),
            id,
            requests,
            leave,
            is_spare,
        }
    }
}

impl Open {
    fn has_too_many(&self, address: ClientAddress, max: usize) -> bool {
        let site = address.site().and_then(|site| self.sites.get(&site));
        self.addresses.get(&address).is_some_and(|has| *has >= max)
            || site.is_some_and(|has| *has >= max.saturating_mul(SITE_SHARE))
    }

    /// Asks an idle connection to close: the one that has been idle for longest, of the address
    /// with the most connections. So an address that takes all slots makes room with its own
    /// connections.
    fn shed(&mut self, may: impl Fn(&Entry) -> bool) -> bool {
        let idle = self.connections.values_mut().filter_map(|entry| {
            let since = entry.requests.idle_since()?;
            (!entry.is_leaving && may(entry)).then_some((since, entry))
        });
        let has = |entry: &Entry| {
            self.addresses
                .get(&entry.address)
                .copied()
                .unwrap_or_default()
        };
        let found = idle.max_by_key(|(since, entry)| (has(entry), std::cmp::Reverse(*since)));
        let Some((_, entry)) = found else {
            return false;
        };
        entry.is_leaving = true;
        self.staying -= usize::from(!entry.is_spare);
        entry.leave.notify_one();
        true
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.connections.remove(&id) else {
            return;
        };
        self.staying -= usize::from(!entry.is_spare && !entry.is_leaving);
        decrease(&mut self.addresses, entry.address);
        if let Some(site) = entry.address.site() {
            decrease(&mut self.sites, site);
        }
    }
}

fn decrease(counts: &mut HashMap<ClientAddress, usize>, peer: ClientAddress) {
    if let Some(count) = counts.get_mut(&peer) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&peer);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.open().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 7)
    }

    fn has_to_leave(connections: &Connections, slot: &Slot) -> bool {
        connections.open().connections[&slot.id].is_leaving
    }

    #[test]
    fn an_address_has_no_more_slots_than_its_limit() {
        let connections = Connections::new(100, 2);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(at);
        let first = connections.enter(one).unwrap();
        let second = connections.enter(one).unwrap();
        assert_eq!(connections.enter(one).err(), Some(NoSlot::Address));
        assert!(connections.enter(other).is_ok());
        drop(first);
        assert!(connections.enter(one).is_ok());
        drop(second);
        let open = connections.open();
        assert!(open.addresses.is_empty() && open.connections.is_empty());
        assert_eq!(open.staying, 0);
    }

    /// One subscriber with a /48 could have 65,536 times the connections of one address.
    #[test]
    fn a_site_of_ipv6_has_twice_the_slots_of_an_address() {
        let connections = Connections::new(1000, 3);
        let enter = |text: String| connections.enter(at(&text));
        let networks = (0..20).map(|network| format!("2001:db8:1:{network:x}::1"));
        let held: Vec<_> = networks.filter_map(|text| enter(text).ok()).collect();
        assert_eq!(held.len(), 6);
        assert!(enter("2001:db8:2::1".to_owned()).is_ok());
        drop(held);
        assert!(connections.open().sites.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_of_the_largest_client_makes_room() {
        let connections = Connections::new(4, 100);
        let [greedy, honest] = ["192.0.2.1", "192.0.2.2"].map(at);
        let honest = connections.enter(honest).unwrap();
        let mut held = Vec::new();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(1)).await;
            held.push(connections.enter(greedy).unwrap());
        }
        // The first of the three has had a request since.
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(held[0].requests.begin());
        let next = connections.enter(at("192.0.2.3")).unwrap();
        assert!(!next.is_spare);
        let leaving: Vec<_> = held
            .iter()
            .map(|place| has_to_leave(&connections, place))
            .collect();
        assert_eq!(leaving, [false, true, false]);
        assert!(!has_to_leave(&connections, &honest));
    }

    #[test]
    fn an_address_that_can_have_all_slots_makes_room_itself() {
        let connections = Connections::new(2, 2);
        let proxy = at("192.0.2.1");
        let first = connections.enter(proxy).unwrap();
        let _second = connections.enter(proxy).unwrap();
        assert!(!connections.enter(proxy).unwrap().is_spare);
        assert!(has_to_leave(&connections, &first));
    }

    #[test]
    fn spare_slots_make_room_for_each_other() {
        let connections = Connections::new(2, usize::MAX);
        let busy: Vec<_> = (0..2)
            .map(|_| connections.enter(at("192.0.2.1")).unwrap())
            .collect();
        let _requests: Vec<_> = busy.iter().map(|place| place.requests.begin()).collect();
        let mut spare = Vec::new();
        for _ in 0..SPARE {
            spare.push(connections.enter(at("192.0.2.2")).unwrap());
        }
        assert!(spare.iter().all(|place| place.is_spare));
        assert_eq!(connections.enter(at("192.0.2.3")).err(), Some(NoSlot::Full));
        // One of them was asked to close, so that the next one gets a slot.
        let leaving = spare
            .iter()
            .position(|place| has_to_leave(&connections, place));
        drop(spare.swap_remove(leaving.unwrap()));
        assert!(connections.enter(at("192.0.2.3")).unwrap().is_spare);
    }
}
