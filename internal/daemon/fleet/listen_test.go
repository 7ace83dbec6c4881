package fleet

import (
	"os"
	"testing"
)

func TestTheEmbeddedStoreListensNowhereAndIsItsOwnersAlone(t *testing.T) {
	s := newSite(t, false).start()
	nats := s.f.store.embedded
	if client, monitor, profiler := nats.Addr(), nats.MonitorAddr(), nats.ProfilerAddr(); client != nil || monitor != nil || profiler != nil {
		t.Errorf("it listens at %v, %v, %v", client, monitor, profiler)
	}
	if mode := must[os.FileInfo](t)(os.Stat(s.cfg.Dir)).Mode().Perm(); mode != 0o700 {
		t.Errorf("its directory has mode %o", mode)
	}
}
