package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// portForward joins the client to ports of a pod.
func (n node) portForward(w http.ResponseWriter, r *http.Request) error {
	found, err := n.pod(r)
	if err != nil {
		return err
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		return refusal{http.StatusBadRequest, err}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	portforward.ServePortForward(watched{w, ctx, cancel}, r.WithContext(ctx), forwarder{ctx, found.NetNS},
		r.PathValue("pod"), found.UID, options,
		idleTimeout, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
	return nil
}

// forwarder joins streams of one request to ports of a network namespace. It carries the
// request's context because ServePortForward passes another one that never ends.
type forwarder struct {
	request context.Context
	netns   string
}

// PortForward copies both ways until the pod ends its side or the client has gone.
func (f forwarder) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := dial(f.netns, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(f.request, func() { conn.Close() })()
	go func() {
		io.Copy(conn, stream)
		conn.CloseWrite()
	}()
	if _, err := io.Copy(stream, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// dial connects to a port of the loopback interface of a network namespace.
func dial(netns string, port int32) (*net.TCPConn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	dialled := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so no other code meets its namespace.
		runtime.LockOSThread()
		conn, err := dialHere(netns, port)
		dialled <- result{conn, err}
	}()
	got := <-dialled
	if got.err != nil {
		return nil, got.err
	}
	return got.conn.(*net.TCPConn), nil
}

func dialHere(netns string, port int32) (net.Conn, error) {
	namespace, err := os.Open(netns)
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("entering network namespace %s: %w", netns, err)
	}
	conn, err4 := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err4 == nil {
		return conn, nil
	}
	conn, err6 := net.Dial("tcp6", fmt.Sprintf("[::1]:%d", port))
	if err6 == nil {
		return conn, nil
	}
	return nil, fmt.Errorf("failed to connect to localhost:%d inside namespace %q, IPv4: %w IPv6: %w", port, netns, err4, err6)
}
