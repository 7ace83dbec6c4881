package admin

import (
	"context"
	"io"
	"net/http"
)

// BackupPath is at the admin socket alone: what signals carry is in a backup.
const BackupPath = "/v1/backup"

// Backup is a backup of the server's signals, as it is made. The caller closes
// it. One that has no proper end was cut off.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.do(ctx, &http.Transport{DisableKeepAlives: true, DialContext: c.connect}, http.MethodGet, BackupPath, http.Header{}, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		var none struct{}
		return nil, decode(resp, &none)
	}
	return resp.Body, nil
}
