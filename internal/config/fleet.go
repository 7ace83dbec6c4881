package config

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// What happens to a signal whose device's queue is full.
const (
	WhenFullRefuse = "refuse"      // its sender is told
	WhenFullDrop   = "drop-oldest" // it takes the place of the first in the queue
)

// NATS names the NATS server or cluster that keeps the signals.
type NATS struct {
	// URL is nats:// or tls://, several with commas. Empty: NATS runs inside the
	// server and listens nowhere.
	URL string `yaml:"url"`
	// Credentials is a file with the user's JWT and key, as nsc makes them.
	Credentials string `yaml:"credentials"`
	// CA is a PEM file of the authorities for the server's certificate. Empty: the
	// system's.
	CA string `yaml:"ca"`
	// Replicas of each stream in a cluster; 0 is 1.
	Replicas int `yaml:"replicas"`
}

// Queue bounds the signals that wait; 0 is the fleet package's default.
type Queue struct {
	PerDevice int           `yaml:"per_device"` // signals that wait for one device
	WhenFull  string        `yaml:"when_full"`  // refuse or drop-oldest
	MaxMiB    int           `yaml:"max_mib"`    // of all queues together
	MaxAge    time.Duration `yaml:"max_age"`    // for which a signal waits
	Outcomes  time.Duration `yaml:"outcomes"`   // for which what became of it is kept
}

// Cloud bounds the signals of devices that are kept; 0 is the fleet package's
// default.
type Cloud struct {
	MaxMiB int           `yaml:"max_mib"`
	MaxAge time.Duration `yaml:"max_age"`
}

// Hook gets the signals of devices: by a command or at a URL.
type Hook struct {
	Name    string        `yaml:"name"` // of the signal; a pattern such as alarm-*
	Command []string      `yaml:"command"`
	URL     string        `yaml:"url"`
	Timeout time.Duration `yaml:"timeout"`
}

// maxReplicas is what JetStream takes.
const maxReplicas = 5

func (c *check) fleet(s *Server) {
	if s.NATS.URL != "" {
		for _, u := range strings.Split(s.NATS.URL, ",") {
			c.url("nats.url", strings.TrimSpace(u), "nats", "tls")
		}
	} else {
		needURL := map[string]string{"nats.credentials": s.NATS.Credentials, "nats.ca": s.NATS.CA}
		for _, field := range keys(needURL) {
			if needURL[field] != "" {
				c.add(field, "goes with nats.url")
			}
		}
	}
	if s.NATS.Replicas < 0 || s.NATS.Replicas > maxReplicas {
		c.add("nats.replicas", fmt.Sprintf("want 1 to %d", maxReplicas))
	} else if s.NATS.URL == "" && s.NATS.Replicas > 1 {
		c.add("nats.replicas", "more than 1 goes with nats.url, of a cluster")
	}
	c.oneOf("queue.when_full", s.Queue.WhenFull, WhenFullRefuse, WhenFullDrop)
	bounds := map[string]int64{
		"queue.per_device": int64(s.Queue.PerDevice), "queue.max_mib": int64(s.Queue.MaxMiB), "queue.max_age": int64(s.Queue.MaxAge),
		"queue.outcomes": int64(s.Queue.Outcomes), "cloud.max_mib": int64(s.Cloud.MaxMiB), "cloud.max_age": int64(s.Cloud.MaxAge),
	}
	for _, field := range keys(bounds) {
		c.notNegative(field, bounds[field])
	}
	for i, h := range s.Hooks {
		c.hook(fmt.Sprintf("hooks[%d]", i), h)
	}
}

func (c *check) hook(field string, h Hook) {
	if c.required(field+".name", h.Name) {
		if _, err := path.Match(h.Name, ""); err != nil {
			c.add(field+".name", quoted(h.Name)+"is not a name or a pattern such as alarm-*")
		}
	}
	switch {
	case (len(h.Command) > 0) == (h.URL != ""):
		c.add(field, "want either command or url")
	case h.URL != "":
		c.url(field+".url", h.URL, "http", "https")
	case h.Command[0] == "":
		c.add(field+".command", "the program is missing")
	}
	c.notNegative(field+".timeout", int64(h.Timeout))
}
