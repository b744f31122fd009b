//go:build full

package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// exchange is where the shop tells what happened.
const exchange = "shop"

// events tells RabbitMQ what happened, and knows that it was kept there.
type events struct {
	url     string
	mu      sync.Mutex
	channel *amqp.Channel
}

// publish returns when the broker has confirmed the event.
func (e *events) publish(ctx context.Context, key, id string, event any) error {
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	channel, err := e.open()
	if err != nil {
		return err
	}
	message := amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: id, Body: body,
	}
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, exchange, key, false, false, message)
	if err != nil {
		return err
	}
	acknowledged, err := confirmation.WaitContext(ctx)
	if err == nil && !acknowledged {
		err = errors.New("the broker did not take the event")
	}
	return err
}

// open makes a channel where there is none, or none that lives.
func (e *events) open() (*amqp.Channel, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.channel != nil && !e.channel.IsClosed() {
		return e.channel, nil
	}
	connection, err := amqp.Dial(e.url)
	if err != nil {
		return nil, err
	}
	channel, err := connection.Channel()
	if err == nil {
		err = channel.ExchangeDeclare(exchange, amqp.ExchangeTopic, true, false, false, false, nil)
	}
	if err == nil {
		err = channel.Confirm(false)
	}
	if err != nil {
		connection.Close()
		return nil, err
	}
	e.channel = channel
	return channel, nil
}
