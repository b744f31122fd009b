// One kube-apiserver with its etcd in one process, for tests. No controller and
// no kubelet run beside it: a test writes its own objects.
//
//	kube-apiserver --data DIR [--address IP] [--port P]
//	kube-apiserver compact --data DIR
//
// DIR keeps etcd, the certificate, the keys and the tokens, so that a second
// start on it is the same server. DIR/kubeconfig is the administrator's. The
// server answers /readyz when it is up, and ends at SIGTERM.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "compact" {
		check(compact(os.Args[2:]))
		return
	}
	flags := flag.NewFlagSet("kube-apiserver", flag.ExitOnError)
	data := flags.String("data", "", "the folder of everything that is kept")
	address := flags.String("address", "127.0.0.1", "the address to listen on")
	port := flags.Int("port", 0, "the port to listen on; 0 takes a free one, the same at each start")
	check(flags.Parse(os.Args[1:]))
	check(os.MkdirAll(*data, 0o700))

	endpoint, err := startEtcd(*data)
	check(err)
	arguments, err := prepare(*data, *address, *port, endpoint)
	check(err)
	command := app.NewAPIServerCommand()
	command.SetArgs(arguments)
	// Ends at SIGTERM; etcd ends with the process.
	os.Exit(cli.Run(command))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube-apiserver:", err)
		os.Exit(1)
	}
}

// startEtcd starts etcd on a free port of loopback and writes down which.
func startEtcd(data string) (string, error) {
	config := embed.NewConfig()
	config.Dir = filepath.Join(data, "etcd")
	config.LogLevel = "error"
	config.LogOutputs = []string{filepath.Join(data, "etcd.log")}
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	config.ListenClientUrls, config.ListenPeerUrls = []url.URL{any}, []url.URL{any}
	config.UnsafeNoFsync = true
	config.EnableGRPCGateway = false
	config.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return "", err
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return "", err
	case <-time.After(30 * time.Second):
		return "", fmt.Errorf("etcd is not ready after 30 s")
	}
	endpoint := "http://" + etcd.Clients[0].Addr().String()
	return endpoint, os.WriteFile(filepath.Join(data, "etcd.url"), []byte(endpoint), 0o600)
}

// compact forgets all of etcd's history but the newest state.
func compact(arguments []string) error {
	flags := flag.NewFlagSet("compact", flag.ExitOnError)
	data := flags.String("data", "", "the folder of the server, which runs")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	endpoint, err := os.ReadFile(filepath.Join(*data, "etcd.url"))
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{string(endpoint)}, DialTimeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	now, err := client.Get(ctx, "/")
	if err != nil {
		return err
	}
	if _, err := client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	fmt.Println(now.Header.Revision)
	return nil
}

// prepare writes what the server needs, if it is not there from an earlier
// start, and returns the arguments of the server.
func prepare(data, address string, port int, etcd string) ([]string, error) {
	file := func(name string) string { return filepath.Join(data, name) }
	if port == 0 {
		var err error
		if port, err = keptPort(file("port"), address); err != nil {
			return nil, err
		}
	}
	if err := writeKeys(data, address); err != nil {
		return nil, err
	}
	token, err := os.ReadFile(file("admin.token"))
	if err != nil {
		return nil, err
	}
	url := "https://" + net.JoinHostPort(address, strconv.Itoa(port))
	if err := os.WriteFile(file("kubeconfig"), []byte(kubeconfig(url, file("tls.crt"), string(token))), 0o600); err != nil {
		return nil, err
	}
	return []string{
		"--etcd-servers=" + etcd,
		"--bind-address=" + address,
		"--advertise-address=" + address,
		"--secure-port=" + strconv.Itoa(port),
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + file("tls.crt"),
		"--tls-private-key-file=" + file("tls.key"),
		"--token-auth-file=" + file("tokens.csv"),
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + file("accounts.key"),
		"--service-account-signing-key-file=" + file("accounts.key"),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--disable-admission-plugins=ServiceAccount",
		"--allow-privileged=true",
		"--shutdown-delay-duration=0s",
		"--audit-policy-file=" + file("audit.yaml"),
		"--audit-log-path=" + file("audit.log"),
		"--audit-log-mode=blocking",
	}, nil
}

// keptPort is a port that was free at the first start.
func keptPort(file, address string) (int, error) {
	if text, err := os.ReadFile(file); err == nil {
		return strconv.Atoi(string(text))
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	return port, os.WriteFile(file, []byte(strconv.Itoa(port)), 0o600)
}

// writeKeys makes the certificate, the key of service accounts, the token of
// the administrator and the policy of the audit, at the first start.
func writeKeys(data, address string) error {
	file := func(name string) string { return filepath.Join(data, name) }
	if _, err := os.Stat(file("audit.yaml")); err == nil {
		return nil
	}
	certificate, key, err := certutil.GenerateSelfSignedCertKey(address, []net.IP{net.ParseIP(address)}, []string{"localhost", "kubernetes.default.svc"})
	if err != nil {
		return err
	}
	accounts, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(accounts)})
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	token := hex.EncodeToString(random)
	files := []struct {
		name string
		text []byte
	}{
		{"tls.crt", certificate},
		{"tls.key", key},
		{"accounts.key", encoded},
		{"admin.token", []byte(token)},
		{"tokens.csv", []byte(token + ",admin,admin,system:masters\n")},
		// One line for each request that has ended or begun to watch.
		{"audit.yaml", []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")},
	}
	for _, each := range files {
		if err := os.WriteFile(file(each.name), each.text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func kubeconfig(url, certificate, token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin, namespace: default}}]
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: admin, user: {token: %q}}]
`, url, certificate, token)
}
