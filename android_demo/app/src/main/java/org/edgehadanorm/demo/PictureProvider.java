package org.edgehadanorm.demo;

import android.content.ContentProvider;
import android.content.ContentValues;
import android.content.Context;
import android.database.Cursor;
import android.database.MatrixCursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import android.provider.OpenableColumns;
import java.io.File;
import java.io.FileNotFoundException;
import java.util.ArrayList;
import java.util.List;

/** Lets another app read the one picture that it was given: read only, from one folder, by grant. */
public final class PictureProvider extends ContentProvider {
    private static final String AUTHORITY = ".pictures";

    static File folder(Context context) {
        return new File(context.getCacheDir(), "shared");
    }

    static Uri uri(Context context, String name) {
        return new Uri.Builder().scheme("content").authority(context.getPackageName() + AUTHORITY).appendPath(name)
                .build();
    }

    @Override
    public boolean onCreate() {
        return true;
    }

    @Override
    public ParcelFileDescriptor openFile(Uri uri, String mode) throws FileNotFoundException {
        if (!mode.equals("r")) {
            throw new FileNotFoundException(uri + " can only be read");
        }
        return ParcelFileDescriptor.open(file(uri), ParcelFileDescriptor.MODE_READ_ONLY);
    }

    @Override
    public String getType(Uri uri) {
        return Saver.TYPE;
    }

    @Override
    public Cursor query(Uri uri, String[] columns, String selection, String[] arguments, String order) {
        String[] asked = columns == null
                ? new String[] {OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE} : columns;
        List<String> names = new ArrayList<>();
        List<Object> values = new ArrayList<>();
        try {
            File file = file(uri);
            for (String column : asked) {
                if (column.equals(OpenableColumns.DISPLAY_NAME)) {
                    names.add(column);
                    values.add(file.getName());
                } else if (column.equals(OpenableColumns.SIZE)) {
                    names.add(column);
                    values.add(file.length());
                }
            }
        } catch (FileNotFoundException error) {
            return new MatrixCursor(asked);
        }
        MatrixCursor cursor = new MatrixCursor(names.toArray(new String[0]));
        cursor.addRow(values);
        return cursor;
    }

    @Override
    public Uri insert(Uri uri, ContentValues values) {
        throw new UnsupportedOperationException();
    }

    @Override
    public int update(Uri uri, ContentValues values, String selection, String[] arguments) {
        throw new UnsupportedOperationException();
    }

    @Override
    public int delete(Uri uri, String selection, String[] arguments) {
        throw new UnsupportedOperationException();
    }

    /** A file that lies directly in the folder. */
    private File file(Uri uri) throws FileNotFoundException {
        List<String> path = uri.getPathSegments();
        File folder = folder(getContext());
        if (path.size() == 1) {
            File file = new File(folder, path.get(0));
            if (folder.equals(file.getParentFile()) && file.isFile() && !file.getName().startsWith(".")) {
                return file;
            }
        }
        throw new FileNotFoundException(uri + " is not here");
    }
}
