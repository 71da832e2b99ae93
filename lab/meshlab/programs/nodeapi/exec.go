package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	idleTimeout = 4 * time.Hour // the kubelet's default
	drain       = 5 * time.Second
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// exec runs a command in a container and joins it to the client.
func (n node) exec(w http.ResponseWriter, r *http.Request) error {
	found, err := n.container(r)
	if err != nil {
		return err
	}
	if !found.Running {
		return refuse(http.StatusNotFound, "container %q in pod %q is not running", r.PathValue("container"), r.PathValue("pod"))
	}
	command := r.URL.Query()["command"]
	options, err := remotecommand.NewOptions(r)
	if err == nil && len(command) == 0 {
		err = errors.New("you must specify a command")
	}
	if err != nil {
		return refusal{http.StatusBadRequest, err}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	remotecommand.ServeExec(watched{w, ctx, cancel}, r.WithContext(ctx), executor{found},
		r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"), command, options,
		idleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	return nil
}

// watched lets a request end when its client goes away: net/http stops looking at a connection
// that a handler takes over, and a handler that waits for a silent process does not look either.
type watched struct {
	http.ResponseWriter
	ctx  context.Context
	gone context.CancelFunc
}

// Hijack hands over the connection with a reader that is always being read from the other end.
func (w watched) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	reader, writer := io.Pipe()
	context.AfterFunc(w.ctx, func() { reader.Close() })
	go func() {
		_, err := io.Copy(writer, buffered.Reader)
		writer.CloseWithError(err)
		w.gone()
	}()
	return conn, bufio.NewReadWriter(bufio.NewReader(reader), buffered.Writer), nil
}

// executor runs commands in one container.
type executor struct{ container }

// ExecInContainer runs a command and ends with its exit code as a CodeExitError.
func (e executor) ExecInContainer(ctx context.Context, _, _, _ string, command []string,
	in io.Reader, out, errs io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	process := e.command(ctx, command)
	var err error
	if tty {
		process.Env = append(process.Env, "TERM=xterm")
		err = onTerminal(process, in, out, sizes)
	} else {
		err = onPipes(process, in, out, errs)
	}
	exited, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	code := exited.ExitCode()
	if status, ok := exited.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
}

// command is the command line as the container's user would run it: in the namespaces, root and
// environment of the container. It is a session of its own, and cancelling kills all of it.
func (e executor) command(ctx context.Context, command []string) *exec.Cmd {
	// In one word: util-linux 2.38 takes the word after --wdns for the command.
	enter := []string{"--target", strconv.Itoa(e.PID), "--mount", "--uts", "--pid", "--net", "--root", "--wdns=" + cmp.Or(e.Cwd, "/")}
	if e.UID != 0 || e.GID != 0 {
		enter = append(enter, "--setuid", strconv.Itoa(e.UID), "--setgid", strconv.Itoa(e.GID))
	}
	process := exec.CommandContext(ctx, "nsenter", slices.Concat(enter, []string{"--"}, command)...)
	process.Env = slices.Clone(e.Env)
	if !slices.ContainsFunc(e.Env, func(entry string) bool { return strings.HasPrefix(entry, "PATH=") }) {
		process.Env = append(process.Env, defaultPath)
	}
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	process.Cancel = func() error { return syscall.Kill(-process.Process.Pid, syscall.SIGKILL) }
	process.WaitDelay = drain // for output held open by a child that outlives the command
	return process
}

func onPipes(process *exec.Cmd, in io.Reader, out, errs io.WriteCloser) error {
	process.Stdout, process.Stderr = out, errs
	if in != nil {
		// Not process.Stdin: Wait would wait for the client to end its input.
		stdin, err := process.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(stdin, in)
			stdin.Close()
		}()
	}
	if err := process.Run(); !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return nil
}

func onTerminal(process *exec.Cmd, in io.Reader, out io.Writer, sizes <-chan remotecommand.TerminalSize) error {
	terminal, err := pty.Start(process)
	if err != nil {
		return err
	}
	defer terminal.Close()
	if sizes != nil {
		go func() {
			for size := range sizes {
				pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
			}
		}()
	}
	if in != nil {
		go io.Copy(terminal, in)
	}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		if out != nil {
			io.Copy(out, terminal) // ends with EIO once no process has the terminal open
		}
	}()
	err = process.Wait()
	select {
	case <-shown:
	case <-time.After(drain):
	}
	return err
}
