//! Everything that can be said about the crate from outside, in one program.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod decide;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod files;
#[cfg(test)]
mod garbage;
#[cfg(test)]
mod given;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod matching;
#[cfg(test)]
mod modules;
#[cfg(test)]
mod placed;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod shipped;
