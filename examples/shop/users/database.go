//go:build full

package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const schema = `
create table if not exists users (id bigserial primary key, name text not null, favourite text not null);
insert into users (name, favourite)
  select * from (values ('Ada', 'tea'), ('Grace', 'coffee'), ('Linus', 'tea')) as first
  where not exists (select from users);`

// postgres keeps the users in a database. Its address is that of a local port,
// behind which the sidecar finds the server.
type postgres struct{ pool *pgxpool.Pool }

func openDatabase(ctx context.Context, url string) (postgres, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return postgres{}, err
	}
	config.MaxConns = 25
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return postgres{}, err
	}
	_, err = pool.Exec(ctx, schema)
	return postgres{pool}, err
}

func (p postgres) list(ctx context.Context) ([]user, error) {
	rows, err := p.pool.Query(ctx, "select id::text, name, favourite from users order by users.id")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[user])
}

func (p postgres) get(ctx context.Context, id string) (user, error) {
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return user{}, errNobody
	}
	found := user{ID: id}
	row := p.pool.QueryRow(ctx, "select name, favourite from users where id = $1", number)
	err = row.Scan(&found.Name, &found.Favourite)
	if errors.Is(err, pgx.ErrNoRows) {
		return user{}, errNobody
	}
	return found, err
}

// add keeps the user only if tell succeeds.
func (p postgres) add(ctx context.Context, who user, tell func(user) error) (user, error) {
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		row := tx.QueryRow(ctx, "insert into users (name, favourite) values ($1, $2) returning id::text",
			who.Name, who.Favourite)
		if err := row.Scan(&who.ID); err != nil {
			return err
		}
		return tell(who)
	})
	return who, err
}

func (p postgres) healthy(ctx context.Context) error { return p.pool.Ping(ctx) }
