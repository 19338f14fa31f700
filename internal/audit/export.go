package audit

import (
	"bufio"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// An export is lines of JSON, each one of: the header, which is the first, a name, a record with its hash, a signed checkpoint, the end.

// Header begins an export.
type Header struct {
	First   int64 // the number of the first record
	Prev    Hash  // the hash before it
	Partial bool  // the chain goes on after the last record of the export
}

// Name tells whose an id is.
type Name struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// End ends an export: without it the rest is missing.
type End struct {
	Records int64 `json:"records"`
	Last    int64 `json:"last"` // the number of the last record; 0: there are none
}

// Line is a line of an export; one of its pointers is set.
type Line struct {
	Header     *Header
	Name       *Name
	Record     *Record
	Hash       Hash // of the record
	Checkpoint *Signed
	End        *End
}

type headerWire struct {
	Version int    `json:"v"`
	First   int64  `json:"first"`
	Prev    string `json:"prev"`
	Partial bool   `json:"partial"`
}

// lineWire is a line in JSON.
type lineWire struct {
	Export     *headerWire     `json:"export,omitempty"`
	Name       *Name           `json:"name,omitempty"`
	Record     *wire           `json:"record,omitempty"`
	Hash       string          `json:"hash,omitempty"`
	Checkpoint *checkpointWire `json:"checkpoint,omitempty"`
	Signature  string          `json:"signature,omitempty"`
	End        *End            `json:"end,omitempty"`
}

// MarshalJSON implements [encoding/json.Marshaler]: canonical JSON.
func (l Line) MarshalJSON() ([]byte, error) {
	var w lineWire
	switch {
	case l.Header != nil:
		w.Export = &headerWire{version, l.Header.First, l.Header.Prev.String(), l.Header.Partial}
	case l.Name != nil:
		w.Name = l.Name
	case l.Record != nil:
		record := l.Record.wire()
		w.Record, w.Hash = &record, l.Hash.String()
	case l.Checkpoint != nil:
		return l.Checkpoint.MarshalJSON()
	case l.End != nil:
		w.End = l.End
	default:
		return nil, errors.New("the line is empty")
	}
	return canonical(w)
}

// WriteLine writes a line of an export.
func WriteLine(w io.Writer, l Line) error {
	text, err := l.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// maxLine bounds a line of an export, in bytes.
const maxLine = 32 << 10

// ParseLine reads a line of an export.
func ParseLine(text []byte) (Line, error) {
	var w lineWire
	if len(text) > maxLine {
		return Line{}, fmt.Errorf("it has %d bytes, and there may be %d", len(text), maxLine)
	}
	if err := decodeCanonical(text, &w); err != nil {
		return Line{}, fmt.Errorf("it is no line of an export: %w", err)
	}
	var l Line
	var err error
	kinds := 0
	if w.Export != nil {
		kinds++
		l.Header = &Header{First: w.Export.First, Partial: w.Export.Partial}
		if w.Export.Version != version {
			return Line{}, fmt.Errorf("it is an export of version %d, and this program knows %d: use a newer one", w.Export.Version, version)
		}
		l.Header.Prev, err = ParseHash(w.Export.Prev)
		err = errors.Join(err, checkNumbers(w.Export.First))
	}
	if w.Name != nil {
		kinds++
		l.Name = w.Name
	}
	if w.Record != nil {
		kinds++
		record, rerr := w.Record.record()
		hash, herr := ParseHash(w.Hash)
		l.Record, l.Hash, err = &record, hash, errors.Join(err, rerr, herr)
	}
	if w.Checkpoint != nil {
		kinds++
		signed, serr := signedWire{*w.Checkpoint, w.Signature}.signed()
		l.Checkpoint, err = &signed, errors.Join(err, serr)
	}
	if w.End != nil {
		kinds++
		l.End, err = w.End, errors.Join(err, checkNumbers(w.End.Records, w.End.Last))
	}
	if kinds != 1 || w.Record == nil && w.Hash != "" || w.Checkpoint == nil && w.Signature != "" {
		err = errors.Join(err, errors.New("it is no line of an export"))
	}
	if err != nil {
		return Line{}, err
	}
	return l, nil
}

// ReadExport calls f for each line of an export; the error says in which line it is, and ends it.
func ReadExport(r io.Reader, f func(Line) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4<<10), maxLine)
	n, ended := 0, false
	for lines.Scan() {
		n++
		l, err := ParseLine(lines.Bytes())
		switch {
		case err != nil:
		case (l.Header != nil) != (n == 1):
			err = errors.New("the header is the first line of an export, and no other is")
		case ended:
			err = errors.New("it comes after the end of the export")
		default:
			ended = l.End != nil
			err = f(l)
		}
		if err != nil {
			return &LineError{n, err}
		}
	}
	if err := lines.Err(); err != nil {
		return &LineError{n + 1, err}
	}
	if !ended {
		return &LineError{n + 1, errors.New("the export has no end: the rest of it is missing")}
	}
	return nil
}

// LineError is what is wrong with a line of an export.
type LineError struct {
	Line int // from 1 on
	Err  error
}

// Error implements [error].
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap gives what is wrong.
func (e *LineError) Unwrap() error { return e.Err }

// VerifyExport looks at an export, which is opened twice. Checkpoints of elsewhere, as of the witness, may come along; accept are the keys
// that checkpoints may be signed with, as for [NewVerifier]. The error is that the export cannot be read at all.
func VerifyExport(open func() (io.ReadCloser, error), accept []ed25519.PublicKey, more []Found) (Report, *Problem, error) {
	var header Header
	found := more
	first, err := open()
	if err != nil {
		return Report{}, nil, err
	}
	defer first.Close()
	broken := ReadExport(first, func(l Line) error {
		if l.Header != nil {
			header = *l.Header
		}
		if l.Checkpoint != nil {
			found = append(found, Found{*l.Checkpoint, "the export"})
		}
		return nil
	})
	v := NewVerifier(accept, found)
	if header.First > 1 {
		v.Begin(header.Prev)
	}
	second, err := open()
	if err != nil {
		return Report{}, nil, err
	}
	defer second.Close()
	var end End
	err = ReadExport(second, func(l Line) error {
		switch {
		case l.Record != nil:
			if end.Records++; end.Records == 1 && l.Record.Seq != header.First {
				return fmt.Errorf("the first record is %d, and the header says %d", l.Record.Seq, header.First)
			}
			end.Last = l.Record.Seq
			if p := v.Record(*l.Record, l.Hash); p != nil {
				return p
			}
		case l.End != nil:
			if *l.End != end {
				return v.Unreadable(fmt.Errorf("the export ends after %d records at %d, and says that these are %d records to %d", end.Records, end.Last, l.End.Records, l.End.Last))
			}
			if header.Partial {
				v.Until(end.Last)
			}
		}
		return nil
	})
	if err == nil {
		err = broken
	}
	var p *Problem
	switch {
	case errors.As(err, &p):
		return v.report, p, nil
	case err != nil:
		return v.report, v.Unreadable(err), nil
	}
	report, p := v.End()
	return report, p, nil
}

var _ json.Marshaler = Line{}
