package config

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

func isPostgresURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// parsePostgres asks the driver whether it can use the URL. Its own messages, and
// those of net/url, quote the URL or the piece of the password that they stumbled
// over, so only what cannot contain one is passed on.
func parsePostgres(s Secret) (*pgconn.Config, error) {
	if !isPostgresURL(s.Reveal()) {
		return nil, errors.New("must start with postgres:// or postgresql://")
	}
	u, err := url.Parse(s.Reveal())
	if err != nil || isTorn(u) {
		return nil, errors.New("is not a valid connection URL; percent-encode special characters in the password")
	}
	c, err := pgconn.ParseConfig(s.Reveal())
	if err == nil {
		return c, nil
	}
	_, reason, found := strings.Cut(err.Error(), "`: ")
	if !found || mentionsSecret(reason, u) {
		return nil, errors.New("is not a connection URL that the driver accepts")
	}
	return nil, errors.New("is not a connection URL that the driver accepts: " + reason)
}

// isTorn recognises a URL whose password holds a character that ends the address,
// so that the rest of the password is taken for something that may be shown.
func isTorn(u *url.URL) bool {
	return u.Fragment != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@")
}

func mentionsSecret(message string, u *url.URL) bool {
	password, _ := u.User.Password()
	secrets := []string{password}
	for name, values := range u.Query() {
		if isSecretName(name) {
			secrets = append(secrets, values...)
		}
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(message, secret) {
			return true
		}
	}
	return false
}

// primary returns the URL of a database that is given as a URL or by host.
func (d *databaseSection) primary(path string, r *report) Secret {
	byHost := d.Port != 0 || d.DBName != "" || d.User != "" || d.Password != "" || d.SSLMode != ""
	switch {
	case d.URL != "" && (byHost || d.Host != ""):
		r.add(join(path, "url"), "stands beside host, port, dbname, user, password or sslmode; give either the URL or these")
		return ""
	case d.URL == "" && d.Host == "":
		if !r.has(join(path, "host")) {
			r.add(join(path, "url"), "is required, or else host with port, dbname, user, password, sslmode")
		}
		return ""
	}
	at, dsn := join(path, "url"), d.URL
	if d.URL == "" {
		at, dsn = join(path, "host"), d.fromHost(path, r)
	}
	if dsn == "" {
		return ""
	}
	if _, err := parsePostgres(dsn); err != nil {
		r.add(at, err.Error())
		return ""
	}
	return dsn
}

// fromHost puts the URL together. What is left out is up to the driver, which
// knows PGUSER, PGPASSWORD and the password file, except for the database, which
// is called like its entry.
func (d *databaseSection) fromHost(path string, r *report) Secret {
	port := 5432
	if d.Port != 0 {
		between(r, join(path, "port"), &d.Port, 1, 65535)
		port = d.Port
	}
	if d.SSLMode != "" {
		oneOf(r, join(path, "sslmode"), &d.SSLMode, "disable", "allow", "prefer", "require", "verify-ca", "verify-full")
	}
	if len(d.DBName) > maxIdentifierBytes || strings.Contains(d.DBName, "://") || strings.ContainsRune(d.DBName, 0) {
		r.add(join(path, "dbname"), "is not the name of a database; a URL belongs to url")
	}
	if d.Password != "" && d.User == "" {
		r.add(join(path, "user"), "is required beside password")
	}
	u := url.URL{Scheme: "postgres", Path: "/" + d.DBName}
	if d.DBName == "" {
		u.Path += d.Name
	}
	if d.Password != "" {
		u.User = url.UserPassword(d.User, d.Password.Reveal())
	} else if d.User != "" {
		u.User = url.User(d.User)
	}
	query := url.Values{}
	switch {
	case strings.HasPrefix(d.Host, "/"): // the directory of a Unix socket
		query.Set("host", d.Host)
		query.Set("port", strconv.Itoa(port))
	case isHost(d.Host):
		u.Host = net.JoinHostPort(d.Host, strconv.Itoa(port))
	default: // not shown: it may be a URL with its password
		r.add(join(path, "host"), "is not the name or address of a host; the port has a key of its own, and a URL belongs to url")
	}
	for _, key := range []string{"host", "port", "dbname", "sslmode", "user"} {
		if r.has(join(path, key)) {
			return ""
		}
	}
	if d.SSLMode != "" {
		query.Set("sslmode", d.SSLMode)
	}
	u.RawQuery = query.Encode()
	return Secret(u.String())
}

// replica returns the URL of the read replica: a URL as it is; a host, perhaps
// with a port, takes everything else from the primary.
func (d *databaseSection) replica(path string, primary Secret, r *report) Secret {
	at, given := join(path, "read_replica"), d.ReadReplica.Reveal()
	if given == "" {
		return ""
	}
	if strings.Contains(given, "://") {
		if _, err := parsePostgres(d.ReadReplica); err != nil {
			r.add(at, err.Error())
			return ""
		}
		return d.ReadReplica
	}
	host, port, err := net.SplitHostPort(given)
	if err != nil {
		host, port = given, ""
	}
	if !isHost(host) || (port != "" && !isPort(port)) {
		r.add(at, "is neither a host, host:port, nor a postgres:// URL")
		return ""
	}
	if primary == "" {
		return "" // reported already
	}
	c, err := parsePostgres(primary)
	if err != nil {
		return ""
	}
	if port == "" {
		port = strconv.Itoa(int(c.Port))
	}
	u, err := url.Parse(primary.Reveal())
	if err != nil {
		return ""
	}
	query := u.Query()
	for _, key := range []string{"host", "hostaddr", "port", "target_session_attrs"} { // of the primary alone
		query.Del(key)
	}
	u.RawQuery = query.Encode()
	u.Host = net.JoinHostPort(host, port)
	return Secret(u.String())
}

func isHost(s string) bool {
	return net.ParseIP(s) != nil || regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?$`).MatchString(s)
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= 65535 && isDigits(s)
}

// checkListen wants host:port; an empty host means every address.
func checkListen(r *report, path, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !isPort(port) || (host != "" && !isHost(host)) {
		r.add(path, "is not an address to listen on, such as 127.0.0.1:8080", address)
	}
}

// IsLoopback says whether only this machine can reach an address that is listened on.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || (ip != nil && ip.IsLoopback()))
}

// checkEndpoint wants the address of an S3-compatible server and nothing more.
func checkEndpoint(r *report, path, endpoint string) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
		r.add(path, "is not an http:// or https:// address")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		r.add(path, "has more than scheme, host and port; keys belong to access_key_id and secret_access_key, the bucket to bucket")
	}
}
