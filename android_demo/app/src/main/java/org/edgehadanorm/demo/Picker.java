package org.edgehadanorm.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.ContentResolver;
import android.content.Intent;
import android.database.Cursor;
import android.graphics.Color;
import android.net.Uri;
import android.provider.OpenableColumns;
import android.widget.Toast;

/** Lets a person choose files by the system's picker, and gives them to the session. */
final class Picker {
    private static final int ZIP = 1;
    private static final int PICTURE = 2;
    private static final int MASK = 3;
    /** Providers do not agree on what a .zip is. */
    private static final String[] ZIP_TYPES =
            {"application/zip", "application/x-zip-compressed", "application/octet-stream"};

    private final Activity activity;
    private final Session session;

    Picker(Activity activity, Session session) {
        this.activity = activity;
        this.session = session;
    }

    /** A bundle to import. */
    void zip() {
        ask(ZIP, new Intent(Api.OPEN_DOCUMENT).setType("*/*").putExtra(Api.MIME_TYPES, ZIP_TYPES));
    }

    /** A picture to begin with. */
    void picture() {
        ask(PICTURE, new Intent(Api.OPEN_DOCUMENT).setType("image/*"));
    }

    /** A picture of what to draw anew. */
    void mask() {
        ask(MASK, new Intent(Api.OPEN_DOCUMENT).setType("image/*"));
    }

    /** What became of it: the activity's result. */
    void answered(int request, int result, Intent data) {
        if (result != Activity.RESULT_OK || data == null || data.getData() == null) {
            return;
        }
        Uri uri = data.getData();
        ContentResolver resolver = activity.getApplicationContext().getContentResolver();
        Session.Source source = () -> resolver.openInputStream(uri);
        if (request == ZIP) {
            session.add(source, nameOf(resolver, uri));
        } else if (request == PICTURE) {
            session.beginWith((width, height) -> PickedPicture.read(source, width, height, Color.WHITE));
        } else if (request == MASK) {  // what nobody painted is kept
            session.mask((width, height) -> PickedPicture.read(source, width, height, Color.BLACK));
        }
    }

    private void ask(int request, Intent intent) {
        try {
            activity.startActivityForResult(intent.addCategory(Intent.CATEGORY_OPENABLE), request);
        } catch (ActivityNotFoundException error) {
            Toast.makeText(activity, R.string.no_picker, Toast.LENGTH_LONG).show();
        }
    }

    private static String nameOf(ContentResolver resolver, Uri uri) {
        String[] columns = {OpenableColumns.DISPLAY_NAME};
        try (Cursor cursor = resolver.query(uri, columns, null, null, null)) {
            if (cursor != null && cursor.moveToFirst() && cursor.getString(0) != null) {
                return cursor.getString(0);
            }
        } catch (RuntimeException error) {
            // A provider that does not tell; the name is a nicety.
            return "";
        }
        return "";
    }
}
