package session

import (
	"encoding/binary"
	"sync/atomic"
)

// streamIDs keeps the ids of the streams that this end opens rising while the
// session lives. Each yamux counts from the beginning, so on the wire its ids
// have those of the earlier ones added. What the peer still sends for a stream
// of an earlier yamux, after a reset it had not seen, is then known for what it
// is and never taken for data of a new stream.
type streamIDs struct {
	parity uint32        // of this end's ids: 1 on the client
	before atomic.Uint32 // this end's ids of earlier yamuxes go up to this
}

func (ids *streamIDs) ours(id uint32) bool { return id != 0 && id&1 == ids.parity }

// outward changes a header of yamux's into that on the wire.
func (ids *streamIDs) outward(head []byte) {
	if id := binary.BigEndian.Uint32(head[4:]); ids.ours(id) {
		binary.BigEndian.PutUint32(head[4:], id+ids.before.Load())
	}
}

// inward changes a header of the peer's into one for yamux, unless that knows
// nothing of the stream.
func (ids *streamIDs) inward(head []byte) (known bool, err error) {
	id := binary.BigEndian.Uint32(head[4:])
	if !ids.ours(id) {
		return true, nil
	}
	if binary.BigEndian.Uint16(head[2:])&flagSYN != 0 {
		return false, errStreamID
	}
	before := ids.before.Load()
	if id <= before {
		return false, nil
	}
	binary.BigEndian.PutUint32(head[4:], id-before)
	return true, nil
}

// next begins the ids of a new yamux, when the last stream of the one before
// had the id last, 0 none.
func (ids *streamIDs) next(last uint32) { ids.before.Add(last + last&1) }
