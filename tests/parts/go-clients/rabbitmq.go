package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Messages that are confirmed many at a time, and acknowledged one by one.
func rabbitmq(t task) (string, error) {
	address := fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", t.port)
	connection, err := amqp.Dial(address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return "", err
	}
	queue, err := channel.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		return "", err
	}
	if err := channel.Qos(200, 0, false); err != nil {
		return "", err
	}
	deliveries, err := channel.Consume(queue.Name, "", false, false, false, false, nil)
	if err != nil {
		return "", err
	}
	published := make(chan error, 1)
	go func() { published <- publish(address, queue.Name, t.count) }()
	seen := map[int]int{}
	patience := time.After(90 * time.Second)
	for len(seen) < t.count {
		select {
		case delivery, open := <-deliveries:
			if !open {
				return "", errors.New("the channel was closed")
			}
			number, err := strconv.Atoi(string(delivery.Body))
			if err != nil {
				return "", err
			}
			seen[number]++
			if err := delivery.Ack(false); err != nil {
				return "", err
			}
		case <-patience:
			return "", fmt.Errorf("only %d came", len(seen))
		}
	}
	if err := <-published; err != nil {
		return "", err
	}
	return fmt.Sprintf("%d messages confirmed, acknowledged, each once", t.count), eachOnce(seen, t.count)
}

func publish(address, queue string, count int) error {
	connection, err := amqp.Dial(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	waiting := make([]*amqp.DeferredConfirmation, 0, count)
	for number := range count {
		message := amqp.Publishing{Body: []byte(strconv.Itoa(number))}
		confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, message)
		if err != nil {
			return err
		}
		waiting = append(waiting, confirmation)
	}
	for number, confirmation := range waiting {
		if confirmed, err := confirmation.WaitContext(ctx); err != nil || !confirmed {
			return fmt.Errorf("%d was not confirmed: %w", number, err)
		}
	}
	return nil
}
