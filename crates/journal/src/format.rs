//! The bytes of a journal, version 1: encoding and checking of frames, segment headers and marks, as pure functions.
//! The tables are below. The writer seals frames, `walk` reads them, `mark` keeps marks; nobody else knows an offset.

// All numbers are little-endian, all checksums CRC32C (RFC 3720 §12.1), every byte that counts is under one.
//
// `<base, 20 digits>.log`, a segment: a header of 64 bytes, then frames, each at a multiple of 8.
//
//   segment header               frame
//    0  8  "ATOLLJNL"             0  4  checksum of bytes 4..32
//    8  4  version                4  4  checksum of the body, padding included
//   12  4  checksum of the rest   8  4  length of the body without padding
//   16 16  id of the journal     12  4  records in the body; 0: an index that ends the segment
//   32  8  base: first sequence  16  8  sequence of the first record
//   40  8  base of the segment   24  8  the watermark: last sequence that was synced when this was written
//          before, 0 for none    32  …  records: length (4), payload; zeros up to a multiple of 8
//   48  8  its length
//   56  8  offset of its index, 0 for none
//
// A frame is one atomic batch. The checksums of a frame begin with the journal's id, the segment's base and the frame's
// offset, so that a frame is valid at its own place only: a block that was swapped, a frame of another journal, or a
// payload that contains a copy of a segment is never taken for a record when a damaged place is searched for the next one.
// The id is random and in files of 0600: who sends payloads cannot make one that passes for a frame.
//
// An index holds pairs of sequence and offset (8 + 8), one about every 64 KiB.
//
// `mark`: two slots of 64 bytes at 0 and 512, each in a sector of its own, written in turn; the valid one with the higher
// generation counts. A crash in the middle of writing one leaves the other.
//
//    0  8  "ATOLLMRK"    12  4  checksum of the rest    32  8  generation    48  8  base of the last segment, 0 for none
//    8  4  version       16 16  id of the journal       40  8  first kept    56  8  last sequence known to be synced

use crate::Sequence;

/// Version of all of the above.
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_HEADER: u64 = 64;
pub(crate) const FRAME_HEADER: usize = 32;
/// In front of each payload.
pub(crate) const RECORD_HEADER: usize = 4;
pub(crate) const SLOT_BYTES: usize = 64;
pub(crate) const SLOTS: [u64; 2] = [0, 512];
/// Limit: bytes between two entries of an index, of which a lookup walks half on average.
pub(crate) const INDEX_STRIDE: u64 = 64 << 10;
/// Limit: what a frame's length field, and this implementation, can take.
pub(crate) const BODY_MAX: usize = 1 << 30;

const SEGMENT_MAGIC: &[u8; 8] = b"ATOLLJNL";
const MARK_MAGIC: &[u8; 8] = b"ATOLLMRK";

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// What all checksums of one segment begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(id: u128, base: Sequence) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&id.to_le_bytes()), &base.to_le_bytes()))
    }

    fn header(self, offset: u64, header: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), &header[4..FRAME_HEADER])
    }

    fn body(self, body: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, body)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Of the body, without padding.
    pub(crate) length: usize,
    pub(crate) count: u32,
    pub(crate) sequence: Sequence,
    pub(crate) synced: Sequence,
    body_checksum: u32,
}

impl Frame {
    /// Reads a header and checks it; a valid one says where the next frame begins.
    pub(crate) fn decode(bytes: &[u8], seed: Seed, offset: u64) -> Option<Self> {
        let header = bytes.get(..FRAME_HEADER)?;
        let frame = Self {
            length: u32_at(header, 8) as usize,
            count: u32_at(header, 12),
            sequence: u64_at(header, 16),
            synced: u64_at(header, 24),
            body_checksum: u32_at(header, 4),
        };
        let fits = frame.length <= BODY_MAX && u64::from(frame.count) * RECORD_HEADER as u64 <= frame.length as u64;
        let ordered = frame.synced < frame.sequence && frame.sequence.checked_add(frame.count.into()).is_some();
        (fits && ordered && u32_at(header, 0) == seed.header(offset, header)).then_some(frame)
    }

    /// Whether `body`, with its padding, is what was written, and its records lie within it.
    pub(crate) fn is_body(&self, body: &[u8], seed: Seed) -> bool {
        if body.len() != padded(self.length) || seed.body(body) != self.body_checksum {
            return false;
        }
        let within = |at: usize, _| {
            let end = at + RECORD_HEADER;
            (end <= self.length).then(|| end + u32_at(body, at) as usize).filter(|end| *end <= self.length)
        };
        self.is_index() || (0..self.count).try_fold(0, within) == Some(self.length)
    }

    /// On disk, header and padding included.
    pub(crate) fn bytes(&self) -> u64 {
        (FRAME_HEADER + padded(self.length)) as u64
    }

    /// The sequence behind its last record.
    pub(crate) fn until(&self) -> Sequence {
        self.sequence + Sequence::from(self.count)
    }

    pub(crate) fn is_index(&self) -> bool {
        self.count == 0
    }
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// What a frame of these records takes on disk; `None` beyond what the format can hold.
pub(crate) fn frame_bytes<'a>(records: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
    let mut body = 0usize;
    for record in records {
        body = body.checked_add(RECORD_HEADER + record.len()).filter(|body| *body <= BODY_MAX)?;
    }
    Some(FRAME_HEADER + padded(body))
}

/// Appends a frame that [`seal`] completes once its place is known.
pub(crate) fn push_frame<'a>(buffer: &mut Vec<u8>, sequence: Sequence, records: impl Iterator<Item = &'a [u8]>) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER]);
    let mut count = 0u32;
    for record in records {
        buffer.extend_from_slice(&(record.len() as u32).to_le_bytes());
        buffer.extend_from_slice(record);
        count += 1;
    }
    finish_frame(buffer, start, count, sequence);
}

/// Appends the index that ends a segment; `next` is the sequence behind its last record.
pub(crate) fn push_index(buffer: &mut Vec<u8>, next: Sequence, entries: &[(Sequence, u64)]) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER]);
    for (sequence, offset) in entries {
        buffer.extend_from_slice(&sequence.to_le_bytes());
        buffer.extend_from_slice(&offset.to_le_bytes());
    }
    finish_frame(buffer, start, 0, next);
}

fn finish_frame(buffer: &mut Vec<u8>, start: usize, count: u32, sequence: Sequence) {
    let length = buffer.len() - start - FRAME_HEADER;
    buffer.resize(start + FRAME_HEADER + padded(length), 0);
    let header = &mut buffer[start..start + FRAME_HEADER];
    header[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    header[12..16].copy_from_slice(&count.to_le_bytes());
    header[16..24].copy_from_slice(&sequence.to_le_bytes());
}

/// Size, first sequence and number of records of the unsealed frame that `buffer` begins with.
pub(crate) fn unsealed(buffer: &[u8]) -> (usize, Sequence, u32) {
    (FRAME_HEADER + padded(u32_at(buffer, 8) as usize), u64_at(buffer, 16), u32_at(buffer, 12))
}

/// How many bytes of these unsealed frames are those of records below `sequence`.
pub(crate) fn before(frames: &[u8], sequence: Sequence) -> usize {
    let mut at = 0;
    while at < frames.len() {
        let (bytes, first, _) = unsealed(&frames[at..]);
        if first >= sequence {
            break;
        }
        at += bytes;
    }
    at
}

/// Completes a whole frame for its place: watermark and checksums.
pub(crate) fn seal(frame: &mut [u8], seed: Seed, offset: u64, synced: Sequence) {
    let body = seed.body(&frame[FRAME_HEADER..]);
    frame[4..8].copy_from_slice(&body.to_le_bytes());
    frame[24..32].copy_from_slice(&synced.to_le_bytes());
    let header = seed.header(offset, frame);
    frame[..4].copy_from_slice(&header.to_le_bytes());
}

/// The ranges of the payloads in a checked body.
pub(crate) fn payloads(body: &[u8], count: u32) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    (0..count).map(move |_| {
        let start = at + RECORD_HEADER;
        at = start + u32_at(body, at) as usize;
        start..at
    })
}

/// The pairs in the checked body of an index.
pub(crate) fn index_entries(body: &[u8]) -> Vec<(Sequence, u64)> {
    body.chunks_exact(16).map(|entry| (u64_at(entry, 0), u64_at(entry, 8))).collect()
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: u128,
    pub(crate) base: Sequence,
    pub(crate) before: Before,
}

/// What a segment knows of the one before it, which was whole and on disk when this one was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    /// 0 for none.
    pub(crate) base: Sequence,
    pub(crate) bytes: u64,
    /// Offset of its index, 0 for none.
    pub(crate) index: u64,
}

/// A header or slot that can be read, by its version.
pub(crate) enum Versioned<T> {
    Valid(T),
    /// Whole, of another version.
    Other(u32),
    Invalid,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER as usize] {
        let fields = [self.base, self.before.base, self.before.bytes, self.before.index];
        encode_block(SEGMENT_MAGIC, self.id, fields)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Versioned<Self> {
        decode_block(SEGMENT_MAGIC, bytes, |id, [base, before, bytes, index]| Self {
            id,
            base,
            before: Before { base: before, bytes, index },
        })
    }
}

/// A slot of the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) id: u128,
    pub(crate) generation: u64,
    /// First sequence that was not dropped: the base of a segment.
    pub(crate) first: Sequence,
    /// Base of the last segment that was durably begun; 0 for none.
    pub(crate) last_base: Sequence,
    /// Everything up to here was synced.
    pub(crate) synced: Sequence,
}

impl Slot {
    pub(crate) fn encode(&self) -> [u8; SLOT_BYTES] {
        encode_block(MARK_MAGIC, self.id, [self.generation, self.first, self.last_base, self.synced])
    }

    pub(crate) fn decode(bytes: &[u8]) -> Versioned<Self> {
        decode_block(MARK_MAGIC, bytes, |id, [generation, first, last_base, synced]| Self {
            id,
            generation,
            first,
            last_base,
            synced,
        })
    }
}

fn encode_block(magic: &[u8; 8], id: u128, fields: [u64; 4]) -> [u8; 64] {
    let mut block = [0; 64];
    block[..8].copy_from_slice(magic);
    block[8..12].copy_from_slice(&VERSION.to_le_bytes());
    block[16..32].copy_from_slice(&id.to_le_bytes());
    for (at, field) in fields.into_iter().enumerate() {
        block[32 + at * 8..40 + at * 8].copy_from_slice(&field.to_le_bytes());
    }
    let checksum = block_checksum(&block);
    block[12..16].copy_from_slice(&checksum.to_le_bytes());
    block
}

fn decode_block<T>(magic: &[u8; 8], bytes: &[u8], of: impl FnOnce(u128, [u64; 4]) -> T) -> Versioned<T> {
    let Some(block) = bytes.get(..64) else { return Versioned::Invalid };
    if &block[..8] != magic || block_checksum(block) != u32_at(block, 12) {
        return Versioned::Invalid;
    }
    match u32_at(block, 8) {
        VERSION => {
            let mut id = [0; 16];
            id.copy_from_slice(&block[16..32]);
            let fields = [u64_at(block, 32), u64_at(block, 40), u64_at(block, 48), u64_at(block, 56)];
            Versioned::Valid(of(u128::from_le_bytes(id), fields))
        }
        other => Versioned::Other(other),
    }
}

fn block_checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..64])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u128 = 0x1234_5678_9abc_def0_1122_3344_5566_7788;

    fn sealed(records: &[&[u8]], offset: u64) -> Vec<u8> {
        let mut buffer = Vec::new();
        push_frame(&mut buffer, 41, records.iter().copied());
        assert_eq!(frame_bytes(records.iter().copied()), Some(buffer.len()));
        assert_eq!(unsealed(&buffer), (buffer.len(), 41, records.len() as u32));
        seal(&mut buffer, Seed::new(ID, 7), offset, 40);
        buffer
    }

    fn is_valid(bytes: &[u8], seed: Seed, offset: u64) -> bool {
        Frame::decode(bytes, seed, offset).is_some_and(|frame| frame.is_body(&bytes[FRAME_HEADER..], seed))
    }

    #[test]
    fn a_frame_gives_its_records_back() {
        let bytes = sealed(&[b"one", b"", b"three"], 64);
        let frame = Frame::decode(&bytes, Seed::new(ID, 7), 64).expect("valid");
        assert_eq!((frame.sequence, frame.until(), frame.synced, frame.bytes()), (41, 44, 40, bytes.len() as u64));
        let body = &bytes[FRAME_HEADER..];
        let records: Vec<&[u8]> = payloads(body, frame.count).map(|range| &body[range]).collect();
        assert_eq!(records, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_seen() {
        let bytes = sealed(&[b"some", b"records"], 64);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&flipped, Seed::new(ID, 7), 64), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_is_valid_at_its_own_place_only() {
        let bytes = sealed(&[b"record"], 64);
        assert!(is_valid(&bytes, Seed::new(ID, 7), 64));
        assert!(!is_valid(&bytes, Seed::new(ID, 7), 72));
        assert!(!is_valid(&bytes, Seed::new(ID, 8), 64));
        assert!(!is_valid(&bytes, Seed::new(ID + 1, 7), 64));
        for end in 0..bytes.len() {
            assert!(!is_valid(&bytes[..end], Seed::new(ID, 7), 64), "cut at {end}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut block = SegmentHeader { id: ID, base: 7, before: Before::default() }.encode();
        block[8] = 2;
        assert!(matches!(SegmentHeader::decode(&block), Versioned::Invalid));
        let checksum = block_checksum(&block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(SegmentHeader::decode(&block), Versioned::Other(2)));
    }

    #[test]
    fn headers_and_marks_are_read_as_written_or_not_at_all() {
        let header = SegmentHeader { id: ID, base: 7, before: Before { base: 3, bytes: 500, index: 400 } };
        let slot = Slot { id: ID, generation: 9, first: 3, last_base: 7, synced: 12 };
        assert!(matches!(SegmentHeader::decode(&header.encode()), Versioned::Valid(read) if read == header));
        assert!(matches!(Slot::decode(&slot.encode()), Versioned::Valid(read) if read == slot));
        assert!(matches!(Slot::decode(&header.encode()), Versioned::Invalid));
        for bit in 0..64 * 8 {
            let mut flipped = slot.encode();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Slot::decode(&flipped), Versioned::Invalid), "bit {bit}");
        }
    }
}
