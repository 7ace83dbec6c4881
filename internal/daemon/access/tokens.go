package access

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

const (
	maxTokens = 1 << 20 // bytes of the file
	minToken  = 16      // bytes
)

// NextTokens says what to do about a file of tokens that cannot be used.
const NextTokens = "write a file with a name and a token of at least 16 characters on each line, such as: ci 8hKq0vWq3nB6x7Rt"

// Tokens are names with secrets, from a file with "NAME TOKEN" on each line;
// TOKEN may be sha256: and the hex of its sum. Blank lines and those that begin
// with # mean nothing. A change of the file counts from the next use.
type Tokens struct {
	path string

	mu   sync.Mutex
	seen version
	sums map[string][sha256.Size]byte // by name
}

// LoadTokens reads the file at path.
func LoadTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	t.seen = versionOf(path)
	sums, err := readTokens(path)
	t.sums = sums
	return t, err
}

// Name returns the name of the token that is the secret.
func (t *Tokens) Name(secret string) (name string, ok bool) {
	t.mu.Lock()
	if now := versionOf(t.path); now != t.seen {
		// A file that is in error lets nobody in: a token may have been taken out.
		t.seen = now
		t.sums, _ = readTokens(t.path)
	}
	sums := t.sums
	t.mu.Unlock()
	sum := sha256.Sum256([]byte(secret))
	for n, s := range sums {
		if subtle.ConstantTimeCompare(sum[:], s[:]) == 1 {
			name, ok = n, true
		}
	}
	return name, ok
}

func readTokens(path string) (map[string][sha256.Size]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxTokens {
		return nil, fmt.Errorf("%s: over %d bytes long", path, maxTokens)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sums := map[string][sha256.Size]byte{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) != 2 {
			return nil, fmt.Errorf("%s:%d: want NAME TOKEN", path, n)
		}
		if _, twice := sums[words[0]]; twice {
			return nil, fmt.Errorf("%s:%d: %s is there already", path, n, words[0])
		}
		sum, err := tokenSum(words[1])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		sums[words[0]] = sum
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("%s: there is no token in it", path)
	}
	return sums, nil
}

func tokenSum(text string) (sum [sha256.Size]byte, err error) {
	if digits, ok := strings.CutPrefix(text, "sha256:"); ok {
		b, err := hex.DecodeString(digits)
		if err != nil || len(b) != sha256.Size {
			return sum, errors.New("after sha256: want the 64 hex digits of a sum")
		}
		return [sha256.Size]byte(b), nil
	}
	if len(text) < minToken {
		return sum, fmt.Errorf("the token is too short to be a secret: want at least %d characters", minToken)
	}
	return sha256.Sum256([]byte(text)), nil
}
