// Package ui serves River UI: the queue's jobs in a browser, where an operator can
// look at them, retry, cancel and delete them, and pause a database's queue.
//
// River UI itself knows no login. It answers to whoever reaches it, and a browser
// reaches more than its user means to. What stands before it here, in this order:
//
//   - Without a login only requests to a loopback name are answered, so that a page
//     which points a name of its own at 127.0.0.1 gets nothing (DNS rebinding). That
//     an address which others can reach needs a login is a rule of the configuration.
//   - The login, compared in constant time.
//   - Requests that a browser sends for another site's page are refused unless they
//     only read, since a browser adds the login to those too.
//   - Read-only: only what changes nothing gets through.
//
// The package decides nothing about batches. A job that is retried, cancelled or
// deleted here is a row of River's that has changed under the fleet, which brings
// ledger and queue together again by itself.
package ui
