//! A vector of things that come and go, addressed by small numbers.

use std::marker::PhantomData;

/// A place in a [`Slab`] of `T`. Places are used again after a removal.
#[derive(Debug)]
pub struct Key<T> {
    index: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// Makes the key of a place; it need not be taken.
    pub fn new(index: u32) -> Self {
        Self { index, of: PhantomData }
    }

    /// Returns the number of the place.
    pub fn index(self) -> u32 {
        self.index
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<T> Eq for Key<T> {}

/// Things of one kind, by [`Key`].
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Returns the key that the next [`insert`](Self::insert) will use.
    pub fn next_key(&self) -> Key<T> {
        let fresh = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        Key::new(self.free.last().copied().unwrap_or(fresh))
    }

    /// Adds `item`; returns where.
    pub fn insert(&mut self, item: T) -> Key<T> {
        let key = self.next_key();
        self.free.pop();
        match self.place_mut(key) {
            Some(place) => *place = Some(item),
            None => self.places.push(Some(item)),
        }
        key
    }

    /// Takes an item out.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let item = self.place_mut(key)?.take()?;
        self.free.push(key.index);
        Some(item)
    }

    /// Returns the item at `key`.
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        self.places.get(usize::try_from(key.index).ok()?)?.as_ref()
    }

    /// Returns the item at `key`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        self.place_mut(key)?.as_mut()
    }

    /// Returns all keys that are in use now.
    pub fn keys(&self) -> Vec<Key<T>> {
        (0..)
            .zip(&self.places)
            .filter(|(_, place)| place.is_some())
            .map(|(index, _)| Key::new(index))
            .collect()
    }

    /// Returns what is at `count` places from place `from` on.
    pub fn range(&self, from: usize, count: usize) -> impl Iterator<Item = (Key<T>, &T)> {
        (0u32..)
            .zip(&self.places)
            .skip(from)
            .take(count)
            .filter_map(|(index, place)| Some((Key::new(index), place.as_ref()?)))
    }

    /// Returns how many places there are, taken or not.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Says whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }

    fn place_mut(&mut self, key: Key<T>) -> Option<&mut Option<T>> {
        self.places.get_mut(usize::try_from(key.index).ok()?)
    }
}
