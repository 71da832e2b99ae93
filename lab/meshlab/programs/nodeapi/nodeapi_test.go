package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const threeLines = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n2026-01-01T00:00:03Z stdout F three\n"

// newNode describes one pod whose container "app" has a log and "late" has none yet; outside the
// state directory lies what looks like another pod.
func newNode(t *testing.T) http.Handler {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "0.log")
	for path, text := range map[string]string{
		log:                                threeLines,
		dir + "/outside/pod.json":          `{}`,
		dir + "/outside/app.json":          `{"log": "` + log + `"}`,
		dir + "/state/space/web/pod.json":  `{"uid": "u1"}`,
		dir + "/state/space/web/app.json":  `{"running": true, "log": "` + log + `"}`,
		dir + "/state/space/web/late.json": `{}`,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	state, err := os.OpenRoot(dir + "/state")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { state.Close() })
	return node{state}.routes()
}

func TestAnswers(t *testing.T) {
	api := newNode(t)
	for _, expected := range []struct {
		path   string
		status int
		body   string
	}{
		{"/healthz", 200, "ok"},
		{"/containerLogs/space/web/app", 200, "one\ntwo\nthree\n"},
		{"/containerLogs/space/web/app?tailLines=1&timestamps=true", 200, "2026-01-01T00:00:03.000000000Z three\n"},
		{"/containerLogs/space/web/app?sinceTime=2026-01-01T00:00:02Z&limitBytes=5", 200, "two\nt"},
		{"/containerLogs/space/web/app?tailLines=many", 400, "unable to decode query"},
		{"/containerLogs/space/web/app?previous=true", 400, "previous terminated container"},
		{"/containerLogs/space/web/late", 400, "is waiting to start"},
		{"/containerLogs/space/web/nobody", 404, `container "nobody" not found in pod "web"`},
		{"/containerLogs/space/nobody/app", 404, `pod "nobody" does not exist`},
		{"/containerLogs/%2e%2e/outside/app", 500, "path escapes from parent"},
		{"/exec/space/web/u2/app?command=true&output=1", 404, `uid "u2" not found`},
		{"/exec/space/web/u1/late?command=true&output=1", 404, "is not running"},
		{"/exec/space/web/app?command=true", 400, "at least 1 of stdin, stdout, stderr"},
		{"/exec/space/web/app?output=1", 400, "specify a command"},
		{"/portForward/space/nobody", 404, "does not exist"},
		{"/attach/space/web/app", 501, "cannot attach"},
		{"/pods", 404, "not found"},
	} {
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, expected.path, nil))
		if answer.Code != expected.status || !strings.Contains(answer.Body.String(), expected.body) {
			t.Errorf("%s: %d %q, expected %d %q", expected.path, answer.Code, answer.Body, expected.status, expected.body)
		}
	}
}
