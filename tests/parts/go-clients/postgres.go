package main

import (
	"context"
	"database/sql"
	"fmt"
	"sort"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
)

const pool = 25

// A pool of 25 connections that are used all at once, idle, and are used
// again: the server still has the same ones.
func postgres(t task) (string, error) {
	for _, driver := range []string{"postgres", "pgx"} {
		if err := pooled(t, driver); err != nil {
			return "", fmt.Errorf("%s: %w", driver, err)
		}
	}
	return fmt.Sprintf("a pool of %d kept over %v, with lib/pq and with pgx", pool, t.quiet), nil
}

func pooled(t task, driver string) error {
	address := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", t.port)
	db, err := sql.Open(driver, address)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(pool)
	db.SetMaxIdleConns(pool)
	before, err := all(db)
	if err != nil {
		return err
	}
	time.Sleep(t.quiet)
	after, err := all(db)
	if err != nil {
		return err
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		return fmt.Errorf("the connections were %v and are %v", before, after)
	}
	return nil
}

// The server's process of each connection of the pool.
func all(db *sql.DB) ([]int, error) {
	connections := make([]*sql.Conn, 0, pool)
	defer func() {
		for _, connection := range connections {
			connection.Close()
		}
	}()
	ids := make([]int, pool)
	for number := range pool {
		connection, err := db.Conn(context.Background())
		if err != nil {
			return nil, err
		}
		connections = append(connections, connection)
		row := connection.QueryRowContext(context.Background(), "select pg_backend_pid() where $1 = 1", 1)
		if err := row.Scan(&ids[number]); err != nil {
			return nil, err
		}
	}
	sort.Ints(ids)
	return ids, nil
}
